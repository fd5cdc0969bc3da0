"""A model streamed block by block over windows of text."""
