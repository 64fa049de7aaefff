"""What a run learns: a module per kind, with its batches, its checks and its report (no torch)."""
