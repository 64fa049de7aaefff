"""Slurm: batch scripts as pure functions, and the commands that submit, watch and cancel them."""
