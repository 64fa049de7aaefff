"""Complex spectral gate: magnitude, soft threshold, band and phase."""
