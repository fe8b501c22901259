"""Lab shards as they lie on a disk: rows, files, manifest, splits, and their pixels in memory."""
