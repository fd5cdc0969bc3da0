"""Solvers for one linear: which weights leave, and the best values of those that stay."""
