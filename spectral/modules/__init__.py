"""Building blocks of mixers."""
