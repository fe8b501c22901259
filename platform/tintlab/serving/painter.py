"""Photos -> picture files, in batches: everything between the listing and the report.

    read, decode -> wait for others of the same grid -> draw their tokens together
                 -> upsample, join with lightness, encode, write: each photo by itself

Photos wait in memory for others of their grid, up to so many pixels. Which photos share a batch
changes no picture, see `painting`.
"""

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tintlab.data.decoding.images import Undecodable
from tintlab.data.sources.listing import printable
from tintlab.errors import EnvironmentFault
from tintlab.evaluation.picture import GAP_PX, grey_from, write_whole
from tintlab.model.colorizer import Colorizer
from tintlab.model.noise import photo_seed
from tintlab.model.sampler import RowDone
from tintlab.serving.drawing import Drawing
from tintlab.serving.painting import drawn, exact, one_thread, painted, require_short_side
from tintlab.serving.picture_file import PictureFormat, Stamp, encoded, finished, recipe_of
from tintlab.serving.source_photo import SourcePhoto, bytes_of, digest_of, photo_in

DRAWS_AT_ONCE = 16
"""Per draw, 16 together cost a fifth of one alone (docs/results.md), and 32 not less again."""
PIXELS_IN_MEMORY = 1 << 26
"""Of photos that wait, at 4 bytes each, or are being finished, at about 20."""
RECIPE_VERSION = 1
"""Raised whenever the same photo, model and settings would give another picture."""


class Style(NamedTuple):
    """What all pictures of a call have in common."""

    short_side_px: int
    """Short side of the small copy that the model looks at, at best what it was trained on."""
    drawing: Drawing
    seed: int = 0
    """Same seed, same picture: the noise of each photo depends on it and the photo's bytes."""
    form: PictureFormat = PictureFormat()

    def check(self, model: Colorizer) -> None:
        """Raises: ConfigError: a value is impossible, with this model or at all."""
        self.drawing.check()
        self.form.check()
        require_short_side(model, self.short_side_px)


class Job(NamedTuple):
    """One photo and the files that are to be made of it."""

    number: int
    source: str
    source_id: str
    targets: tuple[str, ...]
    """One for each sample."""


@dataclass(frozen=True)
class Outcome:
    """What became of one photo."""

    number: int
    sha256: str | None = None
    """Of its bytes; None if they could not be read."""
    reason: str = ""
    """Why it could not be coloured: a key of `decoding.reasons.REASONS`."""
    message: str = ""
    done_before: bool = False
    """Every picture was there already."""
    pixels: int = 0
    """Of the pictures that were made now."""
    reduced_pixels: int = 0
    """Of those, whose sampled colour no screen can show at their lightness."""
    coloured: bool = False
    ours: bool = False
    flattened: bool = False
    exif_lost: bool = False
    """See `SourcePhoto`."""


class _Ready(NamedTuple):
    """A photo that waits for its colours."""

    job: Job
    photo: SourcePhoto
    sha256: str
    missing: list[int]
    """Which of its samples are to be made."""
    recipes: list[str]


class Painter:
    """A model that paints files in one style.

    Args: threads: photos that are brought to full size and written at the same time.
    """

    def __init__(self, model: Colorizer, style: Style, threads: int = 1) -> None:
        style.check(model)
        self._model, self._style, self._threads = model, style, threads
        self._exact = exact(model)
        self._model_id = identity(model)
        self._batch = max(1, DRAWS_AT_ONCE // style.drawing.draws)

    def paint(self, jobs: Iterable[Job], row_done: RowDone | None = None) -> Iterator[Outcome]:
        """Do the jobs, in no order; what is there already is not made again.

        Args: row_done: see `model.sampler.sample`.
        Raises: EnvironmentFault: a picture cannot be written. IntegrityError: the model's figures
            are not finite.
        """
        with one_thread():
            yield from self._paint(jobs, row_done)

    def _paint(self, jobs: Iterable[Job], row_done: RowDone | None) -> Iterator[Outcome]:
        # Each thread has its own number of threads that PyTorch may start from it.
        pool = ThreadPoolExecutor(self._threads, initializer=partial(torch.set_num_threads, 1))
        waiting: dict[tuple[int, ...], list[_Ready]] = defaultdict(list)
        finishing: deque[tuple[Future[Outcome], int]] = deque()
        held = 0  # pixels
        try:
            for job in jobs:
                ready = self._opened(job)
                if isinstance(ready, Outcome):
                    yield ready
                    continue
                grid = waiting[ready.photo.seen.shape]
                grid.append(ready)
                held += ready.photo.pixels
                full = grid if len(grid) == self._batch else None
                if held > PIXELS_IN_MEMORY:
                    full = max(waiting.values(), key=lambda some: sum(r.photo.pixels for r in some))
                if full:
                    finishing += self._drawn(full, pool, row_done)
                    full.clear()
                while finishing and (finishing[0][0].done() or held > PIXELS_IN_MEMORY):
                    future, pixels = finishing.popleft()
                    held -= pixels
                    yield future.result()
            for rest in waiting.values():
                if rest:
                    finishing += self._drawn(rest, pool, row_done)
                while finishing:
                    yield finishing.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)

    def picture_of(
        self, content: bytes, row_done: RowDone | None = None
    ) -> tuple[bytes, Outcome] | Undecodable:
        """The file of one picture from the bytes of one photo; or why it cannot be decoded."""
        style, digest = self._style, digest_of(content)
        photo = photo_in(content, style.form, style.short_side_px, self._model.stride)
        if isinstance(photo, Undecodable):
            return photo
        job = Job(0, "", digest, ("",))
        ready = _Ready(job, photo, digest, [0], [self._recipe(digest, 0)])
        with one_thread():
            seeds = [photo_seed(style.seed, digest)]
            [tokens] = drawn(self._exact, [photo.seen], seeds, style.drawing, row_done)
            picture, reduced = self._picture(ready, tokens, 0)
        return picture, _outcome(ready, reduced)

    def _opened(self, job: Job) -> _Ready | Outcome:
        content = bytes_of(Path(job.source))
        if isinstance(content, Undecodable):
            return Outcome(job.number, None, content.reason, content.message)
        digest = digest_of(content)
        recipes = [self._recipe(digest, sample) for sample in range(len(job.targets))]
        missing = [
            sample
            for sample, (target, recipe) in enumerate(zip(job.targets, recipes, strict=True))
            if not finished(Path(target), recipe)
        ]
        if not missing:
            return Outcome(job.number, digest, done_before=True)
        style = self._style
        photo = photo_in(content, style.form, style.short_side_px, self._model.stride)
        if isinstance(photo, Undecodable):
            return Outcome(job.number, digest, photo.reason, photo.message)
        return _Ready(job, photo, digest, missing, recipes)

    def _recipe(self, digest: str, sample: int) -> str:
        """Of a sample; the number of samples is not in it, as it changes none of them."""
        style = self._style
        drawing = style.drawing._replace(samples=1)
        decisive = {
            "version": RECIPE_VERSION,
            "photo": digest,
            "model": self._model_id,
            "style": [style.short_side_px, *drawing, style.seed, *style.form],
            "sample": sample,
        }
        return recipe_of(decisive)

    def _drawn(
        self, batch: list[_Ready], pool: ThreadPoolExecutor, row_done: RowDone | None
    ) -> list[tuple[Future[Outcome], int]]:
        """Draw the colours of photos of one grid, and have their pictures finished."""
        seen = [ready.photo.seen for ready in batch]
        seeds = [photo_seed(self._style.seed, ready.sha256) for ready in batch]
        tokens = drawn(self._exact, seen, seeds, self._style.drawing, row_done)
        return [
            (pool.submit(self._finished, ready, own), ready.photo.pixels)
            for ready, own in zip(batch, tokens, strict=True)
        ]

    def _finished(self, ready: _Ready, tokens: Tensor) -> Outcome:
        reduced_pixels = 0
        for sample in ready.missing:
            picture, reduced = self._picture(ready, tokens, sample)
            write(Path(ready.job.targets[sample]), picture)
            reduced_pixels += reduced
        return _outcome(ready, reduced_pixels)

    def _picture(self, ready: _Ready, tokens: Tensor, sample: int) -> tuple[bytes, int]:
        """The file of one sample, and how many pixels' chroma had to be reduced."""
        photo, form = ready.photo, self._style.form
        rgb, reduced_pixels = painted(self._model, photo.L, photo.seen, tokens[sample])
        alpha = photo.alpha
        if form.side_by_side:
            rgb = beside(grey_from(photo.L), rgb)
            alpha = None if alpha is None else beside(alpha, alpha)
        stamp = Stamp(ready.job.source_id, ready.recipes[sample])
        return encoded(form, rgb, alpha, stamp, photo.exif), reduced_pixels


def _outcome(ready: _Ready, reduced_pixels: int) -> Outcome:
    """Of a photo whose missing pictures are made."""
    photo = ready.photo
    return Outcome(
        ready.job.number,
        ready.sha256,
        pixels=photo.pixels * len(ready.missing),
        reduced_pixels=reduced_pixels,
        coloured=photo.coloured,
        ours=photo.ours,
        flattened=photo.flattened,
        exif_lost=photo.exif_lost,
    )


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures of one height in one, with a white, opaque gap."""
    gap = np.full((left.shape[0], GAP_PX, *left.shape[2:]), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def identity(model: Colorizer) -> str:
    """The hash of a model's architecture and weights, whatever folder they came from."""
    digest = sha256()
    settings = [model.model_config.model_dump(), model.bins_config.model_dump()]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write(target: Path, content: bytes) -> None:
    """Write a picture, whole or not at all. Raises: EnvironmentFault: it cannot be written."""
    try:
        write_whole(target, content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EnvironmentFault(
            f"cannot write {printable(str(target))}: {reason}; free some space or choose another "
            "--out; the same command goes on"
        ) from None
