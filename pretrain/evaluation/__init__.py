"""Evaluation of checkpoints and exported models."""
