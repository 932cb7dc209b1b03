"""Benchmarks: the same work by bellis and by its peers, in turn, each time in a process of its own."""
