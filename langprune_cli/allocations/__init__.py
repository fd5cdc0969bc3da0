"""Allocations of sparsity over blocks or linears: one file, one record."""
