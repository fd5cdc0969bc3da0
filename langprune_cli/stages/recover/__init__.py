"""Blockwise tuning: trains kept weights to reproduce the dense model's outputs."""
