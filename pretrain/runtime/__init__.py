"""The process: ranks, torchrun agent, DeepSpeed set-up, memory allocator, precision."""
