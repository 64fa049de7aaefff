"""Survival of a run: signals, hangs, bad numbers, unhealthy nodes."""
