"""`plan`: what a pruning would leave and take, from a configuration alone."""
