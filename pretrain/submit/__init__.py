"""A run on a cluster: the run-aware half of `launch`, which knows no run."""
