"""Slurm: batch scripts as pure functions, and the commands that submit, list and cancel jobs."""
