"""Stages 2 and 3, `score` and `mask`: choose which weights and parts stay."""
