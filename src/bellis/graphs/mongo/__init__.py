"""Graphs in MongoDB."""
