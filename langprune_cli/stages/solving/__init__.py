"""One block solved: which weights stay, and their new values."""
