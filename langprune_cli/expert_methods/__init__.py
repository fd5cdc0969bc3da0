"""Pruning methods for whole experts: one file, one record."""
