"""Queries, keys and values of recall heads."""
