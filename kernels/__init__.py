"""Ops of the spectral path: each a reference in PyTorch and a Triton kernel for GPUs."""
