"""Recurrence that carries a decaying state from chunk to chunk."""
