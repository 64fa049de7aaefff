"""Kinds of objectives, a module each: batches, checks and report (imports no torch)."""
