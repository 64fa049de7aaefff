"""Speed and memory on one GPU: ops, layers, attention, whole training steps."""
