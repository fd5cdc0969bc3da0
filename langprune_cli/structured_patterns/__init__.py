"""Structured patterns, whose parts leave a model whole: one file, one record."""
