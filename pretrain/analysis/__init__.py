"""`resonance analyze`: what a spectral model has learned, in figures and pictures."""
