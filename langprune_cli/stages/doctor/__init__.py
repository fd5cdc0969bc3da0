"""`doctor`: what this machine has for pruning."""
