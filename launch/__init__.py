"""Starting a run on this machine, on Slurm or on Kubernetes; imports no torch."""
