"""`combine` and `compare`: several artifacts of one kind."""
