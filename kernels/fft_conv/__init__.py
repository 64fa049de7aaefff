"""Causal FFT convolution inside chunks."""
