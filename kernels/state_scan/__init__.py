"""Carrying a decaying state from chunk to chunk."""
