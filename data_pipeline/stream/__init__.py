"""From shards to batches: an order that depends on no number of ranks."""
