"""`prune`: stages 1 to 4 at once, block by block."""
