"""What is in a data set, in numbers and two pictures."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tintlab.data.contact_sheet import ab_histogram, contact_sheet, png
from tintlab.data.shard_format.split import SPLITS
from tintlab.data.shards import Shards, open_shards
from tintlab.data.storage import full_uri, resolve, written
from tintlab.errors import EnvironmentFault


@dataclass(frozen=True)
class SplitFigures:
    """One split."""

    photos: int
    near_grey: int
    """Not trained on."""
    copies: int
    """Photos that look like one of a later split; not used."""
    height_px: tuple[int, int, int]
    """Least, median and greatest; 0 where there is no photo."""
    width_px: tuple[int, int, int]
    mean_chroma: float
    """Mean over photos, in CIE units."""


def figures(shards: Shards) -> dict[str, Any]:
    """Everything the manifest and the small columns say, as plain data."""
    manifest = shards.manifest
    (a_mean, b_mean), (a_std, b_std) = manifest.ab.mean, manifest.ab.std
    channels = {"L": (manifest.ab.L_mean, manifest.ab.L_std), "a": (a_mean, a_std)}
    channels["b"] = (b_mean, b_std)
    return {
        "uri": shards.uri,
        "fingerprint": manifest.fingerprint,
        "generation": manifest.generation,
        "shards": len(manifest.shards),
        "bytes": sum(entry.bytes for entry in manifest.shards),
        "parameters": manifest.parameters,
        "split_rule": manifest.split_rule,
        "splits": {split: _split(shards, split).__dict__ for split in SPLITS},
        "channels": {
            name: {"mean": round(mean, 4), "std": round(std, 4)}
            for name, (mean, std) in channels.items()
        },
        "notes": manifest.notes,
        "quarantine": manifest.quarantine.reasons,
    }


def show(uri: str, out: str) -> dict[str, Any]:
    """The figures of a data set; writes contact_sheet.png and ab_histogram.png into a folder.

    Raises: EnvironmentFault: there is no data set, or the folder cannot be written. IntegrityError:
        the data set is damaged.
    """
    shards = open_shards(uri)
    pictures = {
        "contact_sheet": contact_sheet(shards),
        "ab_histogram": ab_histogram(shards.manifest.ab),
    }
    fs, root = resolve(out)
    paths = {}
    for name, picture in pictures.items():
        path = f"{root}/{name}.png"
        try:
            with written(fs, path) as file:
                file.write(png(picture))
        except OSError as error:
            raise EnvironmentFault(
                f"cannot write {path}: {' '.join(str(error).split())}; give another --out"
            ) from None
        paths[name] = full_uri(fs, path)
    return {**figures(shards), **paths}


def _split(shards: Shards, split: str) -> SplitFigures:
    sizes = shards.sizes(split)
    if not len(sizes):
        return SplitFigures(0, 0, 0, (0, 0, 0), (0, 0, 0), 0.0)
    heights, widths = ((int(side.min()), int(np.median(side)), int(side.max())) for side in sizes.T)
    return SplitFigures(
        photos=len(sizes),
        near_grey=len(shards.near_grey(split)),
        copies=len(shards.copies_in(split)),
        height_px=heights,
        width_px=widths,
        mean_chroma=round(float(shards.chroma(split).mean(dtype=np.float64)), 4),
    )
