"""Statistics of the inputs of a block's linears: collected and read back."""
