"""Quality of spectral models compared with a Transformer of equal size."""
