"""Requests: what a command is asked to do, as one frozen value that is checked when it is made, and the function that does it."""
