"""Refinements of a finished mask: one file, one record."""
