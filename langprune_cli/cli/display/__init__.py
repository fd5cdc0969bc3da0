"""What a user sees: tables, progress, notes, logs."""
