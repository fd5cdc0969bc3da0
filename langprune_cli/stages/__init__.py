"""The stages: one room for each command, and what they share; no command-line types."""
