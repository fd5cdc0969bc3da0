"""The hidden size: fewer coordinates for the residual stream of the whole model."""
