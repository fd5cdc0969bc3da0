"""The commands: options and help, one call, and what is printed."""
