"""Decoding methods that transformers does not have."""
