"""Tokenizers: encoding, counting, the vocabulary, and tokenizers with fewer tokens."""
