"""The commands: options and help, one call, and output."""
