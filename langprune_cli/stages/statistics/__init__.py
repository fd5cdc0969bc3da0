"""What a block's linears read: its statistics, collected and read back."""
