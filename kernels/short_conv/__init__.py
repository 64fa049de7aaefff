"""Depthwise causal convolution of a few taps."""
