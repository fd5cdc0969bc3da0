"""Pruning methods for whole blocks: one file, one record."""
