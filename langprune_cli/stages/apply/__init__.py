"""Stage 4, `apply`: the pruned model, written and checked."""
