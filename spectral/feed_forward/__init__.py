"""Feed-forward layers: gated, frequency-domain, mixture of experts."""
