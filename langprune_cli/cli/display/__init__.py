"""Output for the user: tables, progress, notes, logs."""
