"""From sources to shards: reading, cleaning, deduplication, tokenizing."""
