"""No photo is trained on of which val or test holds a copy: found once all photos are known."""

import os
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np

from tintlab.data.shard_format.ab_statistics import AbStatistics, less, statistics_of
from tintlab.data.shard_format.copies import Copy, write_copies
from tintlab.data.shard_format.copy_search import NOTHING, Looks, nearest_copies
from tintlab.data.shard_format.encoding import codes_from_planes
from tintlab.data.shard_format.manifest import Manifest, fingerprint
from tintlab.data.shard_format.split import SPLITS
from tintlab.data.shards import Shards


def guarded(fs: fsspec.AbstractFileSystem, root: str, manifest: Manifest) -> Manifest:
    """The manifest with all copies, whose table is written, and without their colours.

    Args: manifest: what is there, with the copies of the generation before, whose colours are not
        in its statistics any more.
    """
    shards = Shards(fs, root, manifest)
    found = _copies(shards)
    names = {copy.id for copy in found}
    ids = shards.ids("train")
    newly = [index for index in shards.trainable("train").tolist() if ids[index] in names]

    def colors(index: int) -> AbStatistics:
        return statistics_of(codes_from_planes(*shards.planes("train", index)))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ab = less(manifest.ab, pool.map(colors, newly))
    copies = write_copies(fs, root, found)
    of_all = fingerprint(manifest.parameters, manifest.shards, copies)
    return manifest.model_copy(update={"copies": copies, "ab": ab, "fingerprint": of_all})


def _copies(shards: Shards) -> list[Copy]:
    """Photos that look like one of a later split, in the order of splits and photos."""
    looks = _looks(shards)
    found = []
    for place, split in enumerate(SPLITS[:-1]):
        photos, ids = looks[split], shards.ids(split)
        later = SPLITS[place + 1 :]
        originals = Looks(
            np.concatenate([looks[other].hashes for other in later]),
            np.concatenate([looks[other].coarse_grey for other in later]),
        )
        names = [(name, other) for other in later for name in shards.ids(other)]
        nearest = nearest_copies(photos, originals)
        for index in np.flatnonzero(nearest != NOTHING).tolist():
            original = int(nearest[index])
            bits = np.bitwise_count(photos.hashes[index] ^ originals.hashes[original])
            levels = photos.coarse_grey[index].astype(np.int32) - originals.coarse_grey[original]
            rms = float(np.float32(np.sqrt(np.mean(np.square(levels)))))
            found.append(Copy(ids[index], split, *names[original], int(bits), rms))
    return found


def _looks(shards: Shards) -> dict[str, Looks]:
    """What the photos of each split look like, in order."""
    hashes: dict[str, list[np.ndarray]] = {split: [np.zeros(0, np.uint64)] for split in SPLITS}
    greys: dict[str, list[np.ndarray]] = {split: [np.zeros((0, 64), np.uint8)] for split in SPLITS}
    for rows in shards.columns(["split", "phash", "coarse_grey"]):
        splits = np.array(rows["split"].to_pylist())
        digits = "".join(rows["phash"].to_pylist())
        every_hash = np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64)
        every_grey = np.frombuffer(b"".join(rows["coarse_grey"].to_pylist()), np.uint8)
        for split in SPLITS:
            hashes[split].append(every_hash[splits == split])
            greys[split].append(every_grey.reshape(len(splits), -1)[splits == split])
    return {
        split: Looks(np.concatenate(hashes[split]), np.concatenate(greys[split]))
        for split in SPLITS
    }
