"""Stages 2 and 3, `score` and `mask`: which weights, blocks and tokens stay."""
