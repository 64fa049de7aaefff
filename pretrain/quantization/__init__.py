"""`resonance checkpoint quantize`: weights as packed magnitudes and phases."""
