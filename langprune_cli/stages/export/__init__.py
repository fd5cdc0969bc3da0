"""Stage 6, `export`: a folder to share, its model card, GGUF, the hub."""
