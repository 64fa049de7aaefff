"""Building large corpora: near-duplicates, and clusters; the command is in `__main__.py`."""
