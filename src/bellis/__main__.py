"""``python -m bellis``."""

from bellis.cli import main

if __name__ == "__main__":
    main(prog_name="bellis")
