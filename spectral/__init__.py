"""The spectral language model: single-device mathematics, independent of ranks."""
