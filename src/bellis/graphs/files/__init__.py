"""Graphs in files: chunks in Parquet, and a catalogue of them."""
