"""Texts: languages, corpora, sources, and the token windows made of them."""
