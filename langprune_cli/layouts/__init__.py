"""How checkpoints lay out what transformers computes with: conversions, and experts that are taken apart."""
