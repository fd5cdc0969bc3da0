"""Finds a model's channels and KV groups: in a table for some families, by building a smaller model for others."""
