"""Graphs in SQL databases: what SQLite and PostgreSQL share, and each of them."""
