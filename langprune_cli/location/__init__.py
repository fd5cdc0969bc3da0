"""Where a model lies: built in, in a folder, or on the Hugging Face Hub."""
