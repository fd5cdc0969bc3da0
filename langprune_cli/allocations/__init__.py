"""Allocations of sparsity over blocks: one file, one record."""
