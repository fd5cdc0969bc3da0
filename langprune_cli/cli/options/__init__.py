"""Options of the command line: shared ones, completion, and checks of names during parsing."""
