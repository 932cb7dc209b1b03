"""What proves a part of bellis, or of a plugin: hypothesis strategies, and suites of tests to subclass."""
