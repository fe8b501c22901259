"""The options of `tintlab colorize`; light to import."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True)
class ColorizeOptions:
    """Which photos, by which model, how, and where to."""

    photos: Positional[tuple[Path, ...]] = ()
    """Photos, folders of photos, globs; or - for one photo from stdin."""
    out: Path | None = None
    """A folder; for one photo a .png, .jpg or .webp file, or - for stdout; default ./colored."""
    model: str = "@champion"
    """@champion or another alias, a version number, a run id, or a model folder."""
    short_side_px: int | None = None
    """Size of the copy the model looks at; default the crops it was trained on."""
    temperature: float | None = None
    """0 takes the likeliest bins; default the model's evaluation.temperature."""
    top_p: float = 1.0
    """Draw only from the likeliest bins that together reach this."""
    samples: int = 1
    """Pictures of each photo."""
    best_of: int = 1
    """Draw so many and paint the one that the model finds most likely."""
    seed: int = 0
    """Same seed, same picture."""
    format: Literal["png", "jpeg", "webp"] | None = None
    """Of the pictures; default what the name of --out says, else png."""
    quality: int | None = None
    """1 to 100 of a JPEG (default 95) or WebP (default without loss)."""
    side_by_side: bool = False
    """Show the grey photo and the coloured one in one picture."""
    keep_metadata: bool = False
    """Keep the photos' EXIF: camera, time, place. By default nothing of it is kept."""
    workers: int | None = None
    """Processes with a core each, on Ray; default one without Ray, on a cluster all its cores."""
