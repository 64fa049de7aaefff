"""Filters along the sequence: sums of modes, gated or plain, one-sided or two-sided."""
