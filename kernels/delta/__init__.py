"""Writes of delta heads: what each token adds to a state that it first erases."""
