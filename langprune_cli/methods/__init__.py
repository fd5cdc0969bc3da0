"""Pruning methods for single weights: one file, one record."""
