"""Updates of the weights that stay: one file, one record."""
