"""Tensors in, tensors out: statistics, patterns, factors, intervals."""
