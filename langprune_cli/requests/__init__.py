"""Requests: each command's options as one frozen value, checked when it is made, and the function that runs it."""
