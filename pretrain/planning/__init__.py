"""Estimates of a layout before it runs."""
