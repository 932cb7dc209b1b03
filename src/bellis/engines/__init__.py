"""Where workers live. Engines are found by name through the entry points ``bellis.engines``."""
