"""Checks of a machine: versions, devices, kernels."""
