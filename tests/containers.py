"""Tar and Parquet files of photos, for tests of what takes them in."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A tar with these members, in this order."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def hugging_face_parquet(
    path: Path, photos: Sequence[tuple[str | None, bytes | None]], row_group_size: int = 1000
) -> None:
    """A column `image` of {bytes, path} beside a label, as image data sets are published."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": data, "path": name} for name, data in photos], kind)
    table = pa.table({"label": list(range(len(photos))), "image": images})
    pq.write_table(table, path, row_group_size=row_group_size)
