"""Options as the command line spells and explains them: shared ones, completion, and names checked while the line is read."""
