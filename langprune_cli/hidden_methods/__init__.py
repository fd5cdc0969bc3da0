"""Methods that choose the coordinates of a smaller residual stream: one file, one record."""
