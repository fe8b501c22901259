"""What is stored of each photo. Light to import: the command line's options come from here."""

from typing import Literal

from pydantic import Field

from tintlab.settings import Settings

Compression = Literal["none", "zstd"]


class PrepareConfig(Settings):
    """What is stored of each photo; a data set keeps to one such configuration."""

    short_side_px: int | None = Field(256, ge=16, le=8192)
    """Photos are made this small on their short side, never larger; None keeps their size."""
    min_side_px: int = Field(16, ge=1)
    """Photos with a shorter side go to quarantine."""
    max_pixels: int = Field(100_000_000, ge=1)
    """Photos with more pixels go to quarantine, undecoded."""
    near_grey_chroma: float = Field(2.3, ge=0.0, le=200.0)
    """Photos with less mean chroma than this are stored and flagged, and not trained on; 0 flags
    none. 2.3 is the least difference of colours that people notice (Mahy et al. 1994)."""
    shard_rows: int = Field(256, ge=1)
    """Photos in one shard: about 140 MB at 256 px."""
    compression: Compression = "none"
    """Of the pixels. With zstd they take half the room, and batches are made at a tenth of the pace
    until they are decompressed and kept on a local disk."""
