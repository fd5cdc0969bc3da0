"""Updates of the kept weights: one file, one record."""
