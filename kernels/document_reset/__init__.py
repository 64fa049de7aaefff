"""Removal of the signal that leaks from ended documents into later ones of a chunk."""
