"""Photos in, coloured photos out: same size, same lightness, never one photo over another.

A photo is looked at on a small copy of its lightness, its colours are sampled on the coarse grid
of that copy, and joined to the lightness of the photo itself at full size.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image

from tintlab.color.lab import srgb_to_lab
from tintlab.console import Result
from tintlab.data.decoding.images import Undecodable, decode
from tintlab.errors import ConfigError, EnvironmentFault, IntegrityError
from tintlab.evaluation.decodes import photo_seed
from tintlab.evaluation.ladder import evaluating
from tintlab.evaluation.picture import BAND_PIXELS, joined, save_png
from tintlab.model.colorizer import Colorizer
from tintlab.model.sampler import MAX_POSITIONS, Best, RowDone, Rule, best_of, sample_many
from tintlab.serving.output_names import SOURCE_KEY, OutputNames, made_from, source_id

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
"""What is taken from a folder; a file that is named itself is always tried."""
LONGEST_ASPECT = 8
"""The small copy is at most this many times longer than its short side, which bounds the work; a
longer photo is squeezed along its length for the model's eyes only. It is squeezed more where the
sampler's largest grid demands it, see `tintlab.model.sampler.MAX_POSITIONS`."""


MAX_DRAWS = 64
"""Of one photo: all are drawn at once, each in memory of its own."""


class Drawing(NamedTuple):
    """How colours are drawn; see `tintlab.model.sampler`."""

    temperature: float | None = 1.0
    """0 takes the most likely bin at every step; None leaves it to `at`."""
    top_p: float = 1.0
    """Only the most likely bins that together reach this probability; 1 considers all."""
    versions: int = 1
    """Pictures of each photo. The first does not depend on how many there are."""
    best_of: int = 1
    """Draw so many and paint the one that the model finds most likely."""

    def at(self, temperature: float) -> "Drawing":
        """The same, at this temperature if it has none."""
        return self._replace(temperature=temperature) if self.temperature is None else self

    def check(self) -> "Drawing":
        """Itself. Raises: ConfigError: a value is out of range, or versions of the best."""
        Rule(1.0 if self.temperature is None else self.temperature, self.top_p).check()
        for name, number in (("versions", self.versions), ("best_of", self.best_of)):
            if not 1 <= number <= MAX_DRAWS:
                raise ConfigError(f"{name} must be in [1, {MAX_DRAWS}], got {number}")
        if self.versions > 1 and self.best_of > 1:
            raise ConfigError("there is one best of several; give versions or best_of, not both")
        return self


PLAIN = Drawing()
"""One draw from the model as it is."""


class Colored(NamedTuple):
    """A coloured photo, and at how many pixels the chroma had to be reduced to keep lightness."""

    rgb: UInt8[np.ndarray, "H W 3"]
    reduced_pixels: int


@dataclass(frozen=True)
class Quarantined:
    """A source that could not be coloured, and why."""

    source: Path
    reason: str


@dataclass(frozen=True)
class ColorizeReport:
    """What became of every input: inputs = colored + len(quarantined)."""

    inputs: int
    colored: int
    quarantined: list[Quarantined]
    outputs: list[Path]
    """One for each version of each coloured photo, in the order of the inputs."""
    pixels: int = 0
    reduced_pixels: int = 0
    """Pixels whose sampled colour no screen can show at their lightness; painted less chromatic."""
    sources: list[Path] = field(default_factory=list)
    """What each of `outputs` was made from."""

    def result(self, model: str, out: Path) -> Result:
        """What the command says; exit code 4 if a photo could not be read."""
        data = {
            "model": model,
            "inputs": self.inputs,
            "colored": self.colored,
            "quarantined": [
                {"source": str(q.source), "reason": q.reason} for q in self.quarantined
            ],
            "outputs": [str(path) for path in self.outputs],
            "reduced_share": self.reduced_pixels / max(1, self.pixels),
        }
        lines = [f"{self.colored} of {self.inputs} photos coloured by {model}, in {out}"]
        lines += [f"quarantined {q.source}: {q.reason}" for q in self.quarantined]
        return Result(data, "\n".join(lines), exit_code=4 if self.quarantined else 0)


def colorize_photo(
    model: Colorizer,
    rgb: UInt8[np.ndarray, "H W 3"],
    short_side_px: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> UInt8[np.ndarray, "H W 3"]:
    """Colour a photo, grey or not: its own lightness and size are kept, its colours are not used.

    Args: short_side_px: short side of the small copy that the model looks at, at best what it was
        trained on; temperature: 0 takes the most likely bin; seed: same seed, same picture.
    Raises: ConfigError: short_side_px is not a multiple of the chroma stride.
    """
    return next(colored_versions(model, rgb, short_side_px, Drawing(temperature), seed)).rgb


def colored_versions(
    model: Colorizer,
    rgb: UInt8[np.ndarray, "H W 3"],
    short_side_px: int,
    drawing: Drawing,
    seed: int,
    row_done: RowDone | None = None,
) -> Iterator[Colored]:
    """A photo in each of `drawing.versions`, one at full size at a time.

    Args, Raises: see `colorize_photo`; row_done: see `tintlab.model.sampler.sample`.
    """
    drawing.check()
    require_short_side(model, short_side_px)
    device = next(model.parameters()).device
    L = lightness(rgb)
    seen = torch.from_numpy(small_copy(L, short_side_px, model.stride))[None, None].to(device)
    full = torch.from_numpy(L)[None, None].to(device)
    draw = partial(
        best_of if drawing.best_of > 1 else sample_many,
        seeds=[seed],
        temperature=1.0 if drawing.temperature is None else drawing.temperature,
        top_p=drawing.top_p,
        row_done=row_done,
    )
    drawn = draw(model, seen, max(drawing.best_of, drawing.versions))
    tokens = drawn.tokens if isinstance(drawn, Best) else drawn[0]
    for version in tokens.split(1):
        with evaluating(model):
            # Not model.upsample: this grid is spread over the photo itself, not over a padded one.
            ab = model.upsampler(model.bins.decode(version), full)[0].cpu().numpy()
        if not np.isfinite(ab).all():
            raise IntegrityError(
                "the model's upsampler gives colours that are not finite; its weights are damaged "
                "or its training diverged: use another checkpoint"
            )
        yield Colored(*joined(L, ab))


def lightness(rgb: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W"]:
    """L of every pixel; a large photo's a and b, which nobody reads, are never there all at once.

    So the most memory that a photo takes is set by the number of pixels that `decode` accepts
    (`decoding.images.MAX_PIXELS`): L, two planes of ab and their bands, and the picture.
    """
    L = np.empty(rgb.shape[:2], np.float32)
    band = max(1, BAND_PIXELS // rgb.shape[1])
    for top in range(0, len(L), band):
        L[top : top + band] = srgb_to_lab(rgb[top : top + band])[..., 0]
    return L


def small_copy(
    L: Float32[np.ndarray, "H W"], short_side_px: int, stride: int
) -> Float32[np.ndarray, "small_H small_W"]:
    """The lightness as the model looks at it: area means, sides multiples of the chroma stride."""
    height, width = L.shape
    aspect = min(max(height, width) / min(height, width), LONGEST_ASPECT)
    short_cells = short_side_px // stride
    long_cells = min(max(1, round(short_cells * aspect)), MAX_POSITIONS // short_cells)
    long_side_px = long_cells * stride
    small_h, small_w = (
        (short_side_px, long_side_px) if height <= width else (long_side_px, short_side_px)
    )
    # BOX is the exact mean over the area of each target pixel; upwards it would show blocks.
    grows = small_h * small_w > height * width
    kernel = Image.Resampling.BILINEAR if grows else Image.Resampling.BOX
    resized = Image.fromarray(L).resize((small_w, small_h), kernel)
    return np.array(resized, np.float32)  # a copy: Pillow's own memory is read-only


def require_short_side(model: Colorizer, short_side_px: int) -> None:
    """Refuse a short side that the chroma grid does not divide, or too large a grid.

    Raises: ConfigError: names the nearest sides that work.
    """
    stride = model.stride
    largest = math.isqrt(MAX_POSITIONS) * stride
    if short_side_px > largest:
        raise ConfigError(
            f"short_side_px must be at most {largest}, got {short_side_px}; the photo keeps its "
            "own size whatever the size of the copy that the model looks at"
        )
    if short_side_px < stride or short_side_px % stride:
        low = short_side_px // stride * stride
        nearest = f"{low} or {low + stride}" if low > 0 else f"{stride}"
        raise ConfigError(
            f"short_side_px must be a multiple of chroma_stride={stride}, "
            f"got {short_side_px}; use {nearest}"
        )


def colorize_files(
    model: Colorizer,
    sources: Sequence[Path],
    out: Path,
    short_side_px: int,
    drawing: Drawing = PLAIN,
    seed: int = 0,
    show: Callable[[str], None] = lambda line: None,
) -> ColorizeReport:
    """Colour files and folders into `out`, one `<stem>.png` each; a bad photo stops no other.

    Several versions of a photo are `<stem>_1.png`, `<stem>_2.png` and so on; photos of equal stems
    get `<stem>-2.png` and so on. A file already in `out` is replaced only if it was made from the
    same source. Nothing of a source's metadata is copied. The noise of each photo depends on `seed`
    and the photo's bytes, so a photo looks the same in any company.

    Args: show: called with a line of progress, after every row of a photo's grid.
    Raises: EnvironmentFault: a source does not exist, nothing can be decoded, or `out` cannot be
        written. ConfigError: short_side_px is not a multiple of the chroma stride, or the drawing
        is impossible.
    """
    drawing.check()
    require_short_side(model, short_side_px)
    if out.exists() and not out.is_dir():
        raise EnvironmentFault(f"--out must be a folder, and {out} is a file; choose another")
    inputs = find_photos(sources, out)
    names = OutputNames(out, inputs)
    outputs: list[Path] = []
    coloured_sources: list[Path] = []
    quarantined: list[Quarantined] = []
    pixels = reduced_pixels = 0
    for done, source in enumerate(inputs):
        rgb = _read(source)
        if isinstance(rgb, Quarantined):
            quarantined.append(rgb)
            continue
        image, noise_id = rgb
        own_seed = photo_seed(seed, noise_id)

        def row_done(row: int, rows: int, done: int = done) -> None:
            show(f"{done}/{len(inputs)} photos, {row / rows:.0%} of the next drawn")

        versions = colored_versions(model, image, short_side_px, drawing, own_seed, row_done)
        for number, version in enumerate(versions, start=1):
            target = names.take(source, number if drawing.versions > 1 else None)
            _write(target, version.rgb, source)
            outputs.append(target)
            coloured_sources.append(source)
            pixels += image.shape[0] * image.shape[1]
            reduced_pixels += version.reduced_pixels
    show(f"{len(inputs)}/{len(inputs)} photos")
    if not outputs:
        first = quarantined[0]
        raise EnvironmentFault(
            f"none of {len(inputs)} files could be decoded; the first, {first.source}: "
            f"{first.reason}; give photos (JPEG, PNG, WebP, TIFF)"
        )
    return ColorizeReport(
        inputs=len(inputs),
        colored=len(inputs) - len(quarantined),
        quarantined=quarantined,
        outputs=outputs,
        pixels=pixels,
        reduced_pixels=reduced_pixels,
        sources=coloured_sources,
    )


def find_photos(sources: Sequence[Path], out: Path) -> list[Path]:
    """Every file of the sources once, folders searched to the bottom, in a stable order.

    From folders, hidden files and what an earlier call wrote into `out` are left out.

    Raises: EnvironmentFault: a source does not exist, or there is no photo in any.
    """
    found: dict[Path, Path] = {}  # resolved -> as the user wrote it
    for source in sources:
        if not source.exists():
            raise EnvironmentFault(f"no such file or folder: {source}; check the path")
        files = sorted(_photos_below(source, out)) if source.is_dir() else [source]
        for file in files:
            found.setdefault(file.resolve(), file)
    if not found:
        given = ", ".join(str(source) for source in sources)
        raise EnvironmentFault(
            f"no photo found in {given or 'no sources'}; "
            f"looked for {' '.join(sorted(PHOTO_SUFFIXES))}"
        )
    return list(found.values())


def _photos_below(folder: Path, out: Path) -> Iterator[Path]:
    written = out.resolve()
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        in_out = Path(parent).resolve() == written
        for name in files:
            file = Path(parent, name)
            if name.startswith(".") or file.suffix.lower() not in PHOTO_SUFFIXES:
                continue
            if not (in_out and made_from(file)):
                yield file


def _read(source: Path) -> tuple[UInt8[np.ndarray, "H W 3"], str] | Quarantined:
    """The pixels of a photo and the SHA-256 of its bytes, or why there are none."""
    if not source.is_file():  # a pipe would block for ever
        return Quarantined(source, "not_a_file: a pipe, socket, device or broken link")
    try:
        content = source.read_bytes()
    except OSError as error:
        return Quarantined(source, f"unreadable: {error.strerror}")
    decoded = decode(content)
    if isinstance(decoded, Undecodable):
        return Quarantined(source, f"{decoded.reason}: {decoded.message}")
    return decoded.rgb, hashlib.sha256(content).hexdigest()


def _write(target: Path, rgb: UInt8[np.ndarray, "H W 3"], source: Path) -> None:
    try:
        save_png(target, rgb, text={SOURCE_KEY: source_id(source)})
    except OSError as error:
        reason = error.strerror or str(error)
        raise EnvironmentFault(
            f"cannot write {target}: {reason}; free some space or choose another --out"
        ) from None
