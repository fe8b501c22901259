"""Photos to Lab shards, and Lab shards to batches."""
