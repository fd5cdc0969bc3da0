"""Pruning methods for channels and KV groups: one file, one record."""
