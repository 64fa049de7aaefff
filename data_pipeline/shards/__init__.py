"""WebDataset shards and their manifest: reading, caching, verification."""
