"""docs/photos.md, from the hostile corpus and the code. `python tests/photos_page.py` writes it."""

from collections.abc import Iterable
from pathlib import Path

from hostile_corpus import PLACES, kinds
from PIL import Image

from tintlab.data.decoding import colour_profiles, images
from tintlab.data.decoding.reasons import NOTES, REASONS
from tintlab.data.prepare_config import PrepareConfig
from tintlab.data.sources.photo_bytes import MAX_FILE_BYTES

PAGE = Path(__file__).parent.parent / "docs" / "photos.md"


def page() -> str:
    """The whole page."""
    config = PrepareConfig()
    side = config.short_side_px
    assert side is not None
    sections = [
        "# Which photos are taken, and what becomes of the others",
        "This page is made by `python tests/photos_page.py` from the code and from the files that "
        "the tests try; a test fails when it is out of date.",
        "The bytes decide, not the name: "
        + ", ".join(f"`{kind}`" for kind in images.FORMATS)
        + " are read. A photo comes out upright, in sRGB, 8 bits a channel, transparent parts on "
        f"white. With `short_side_px={side}`, a JPEG whose short side is at least "
        f"{images.SUFFICIENT * 2 * side}, {images.SUFFICIENT * 4 * side} or "
        f"{images.SUFFICIENT * 8 * side} px is decoded at a half, a quarter or an eighth of its "
        "size, and then averaged down to the size wanted.",
        "## Limits",
        _table(
            ("what", "limit"),
            [
                ("pixels (`max_pixels`)", f"{config.max_pixels:,}"),
                ("pixels of a WebP", f"a {images.WEBP_COST}th of that"),
                ("pixels of any but JPEG, whatever `max_pixels`", f"{_pillow_limit():,}"),
                ("shorter side (`min_side_px`)", f"{config.min_side_px} px"),
                ("file", f"{MAX_FILE_BYTES >> 20} MB"),
                ("scans of a JPEG", str(images.MAX_SCANS)),
                ("colour profile", f"{colour_profiles.MAX_PROFILE_BYTES >> 20} MB; 1 in PNG"),
            ],
        ),
        "## Reasons",
        "Why a file is in quarantine.",
        _table(("reason", "meaning"), ((f"`{code}`", text) for code, text in REASONS.items())),
        "## Notes",
        "What had to be done to a photo that is stored, apart from decoding it.",
        _table(("note", "meaning"), ((f"`{code}`", text) for code, text in NOTES.items())),
        "## What becomes of each kind",
        "Each line is a file that the tests write and prepare.",
        _table(
            ("kind", "becomes", "notes"),
            (
                *((kind.what, kind.becomes, ", ".join(kind.notes)) for kind in kinds()),
                *((what, becomes, "") for what, becomes in PLACES.values()),
            ),
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _pillow_limit() -> int:
    assert Image.MAX_IMAGE_PIXELS is not None
    return 2 * Image.MAX_IMAGE_PIXELS  # where its warning becomes an error


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page())
