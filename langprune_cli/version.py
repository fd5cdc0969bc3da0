"""The version of langprune: artifacts, logs and errors name it."""

__version__ = "0.1.0"
