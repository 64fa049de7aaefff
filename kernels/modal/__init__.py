"""Modes inside chunks: the state at a chunk's end, and the read-out of a state."""
