"""Stage 5, `eval`: losses, benchmark tasks, speed and advice."""
