"""Finds models: built in, in a folder, or on the Hugging Face Hub."""
