"""Recurrence that carries a matrix state through matrix transitions, chunk by chunk."""
