"""Layouts: a model over tensor, pipeline, sequence and data ranks."""
