"""RMSNorm per head and the gate that follows it, in one pass."""
