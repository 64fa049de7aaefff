"""The spectral language model: single-device mathematics that knows nothing of ranks."""
