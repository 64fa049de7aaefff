"""Ops of the spectral path: each a reference in PyTorch and, on a GPU, a Triton kernel."""
