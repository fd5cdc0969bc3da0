"""Blockwise tuning: surviving weights trained to put out what the dense model does."""
