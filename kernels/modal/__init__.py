"""Modes inside chunks: the state that a chunk leaves, and what a state is read as."""
