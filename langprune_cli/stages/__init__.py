"""The stages: one room per command, and shared code; no command-line types."""
