"""`plan`: the size of a pruned model and the cost of pruning, from a configuration alone."""
