"""Speed of the data pipeline; the command is in `__main__.py`."""
