"""On the path of a command and of Ray's workers, this gives them the `bucket://` storage."""

import fsspec

fsspec.register_implementation("bucket", "bucket_store.BucketFileSystem")
