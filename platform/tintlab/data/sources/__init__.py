"""Where photos come from: files, folders, globs, lists, tars and Parquet files on any storage."""
