"""Gates that act on a spectrum of the past, and their auxiliary losses."""
