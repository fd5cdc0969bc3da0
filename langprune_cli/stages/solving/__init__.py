"""Solves one block: which weights to keep, and their new values."""
