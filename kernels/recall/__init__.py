"""Chunk products of recall heads: modes that are written and read by content."""
