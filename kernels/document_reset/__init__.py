"""What a chunk let in from documents that have ended, taken away."""
