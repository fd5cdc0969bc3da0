"""`doctor`: checks this machine for pruning."""
