"""What requests share: groups of options, the run that a request starts, and what is found where an option was left out."""
