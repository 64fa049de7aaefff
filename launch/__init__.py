"""Launchers of a run: on this machine, on Slurm and on Kubernetes (imports no torch)."""
