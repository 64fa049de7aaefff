"""Cost of the ops in `kernels/`; the command is in `__main__.py`."""
