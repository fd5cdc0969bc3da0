"""Texts: which ones there are, how they are read, and the token windows made of them."""
