"""Structured patterns: parts of a model that leave whole, and the smaller model that remains."""
