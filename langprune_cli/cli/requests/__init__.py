"""What was asked on the command line: checked, completed, and handed to the stages."""
