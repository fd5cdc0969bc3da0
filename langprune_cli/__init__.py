"""Prune large language models for the languages their users care about."""

__version__ = "0.1.0"
