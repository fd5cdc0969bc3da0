"""Stage 1, `calibrate`: statistics of a text."""
