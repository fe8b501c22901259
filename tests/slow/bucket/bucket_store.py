"""A stand-in for an object store that several processes see: `bucket://` is the folder $BUCKET.

It is no local file system to tintlab, so that everything goes up file by file; with a file `fail`
in $BUCKET, an upload whose name ends with that file's content breaks off halfway.
"""

import os
from pathlib import Path

from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem


class BucketFileSystem(DirFileSystem):
    """Uploads, downloads, listings and deletions; renames are a copy and a deletion."""

    protocol = "bucket"

    def __init__(self, **options: object) -> None:
        super().__init__(path=os.environ["BUCKET"], fs=LocalFileSystem(auto_mkdir=True))

    def mv(self, path1: str, path2: str, **options: object) -> None:
        self.cp_file(path1, path2)
        self.rm_file(path1)

    def put_file(self, lpath: str, rpath: str, **options: object) -> None:
        switch = Path(os.environ["BUCKET"]) / "fail"
        if switch.exists() and rpath.endswith(switch.read_text()):
            content = Path(lpath).read_bytes()
            self.pipe_file(rpath, content[: len(content) // 2])
            raise OSError("503 Slow Down")
        super().put_file(lpath, rpath, **options)
