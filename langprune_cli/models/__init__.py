"""Checkpoints and the modules that they fill."""
