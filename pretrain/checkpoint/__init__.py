"""Checkpoints that any layout can read: written by all ranks, whole or absent, verified."""
