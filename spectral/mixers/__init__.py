"""Sequence mixers: one base class, one file for each kind."""
