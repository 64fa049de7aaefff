"""Sources to shards: reading, cleaning, deduplication, tokenization."""
