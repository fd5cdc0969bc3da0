"""Solvers for one linear: which weights to prune, and the best values of those kept."""
