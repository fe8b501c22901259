"""`tintlab colorize` from its options to its result; only that which is needed is ever loaded."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tintlab.cluster import connect
from tintlab.config import Workspace
from tintlab.console import ProgressLine, Result, say
from tintlab.data.decoding.images import Undecodable
from tintlab.data.sources.listing import printable
from tintlab.errors import ConfigError, EnvironmentFault
from tintlab.model.artifact import load_model
from tintlab.model.colorizer import Colorizer
from tintlab.serving.account import ColorizeReport, keep, notes_on
from tintlab.serving.colorize import colorize_photos, colorize_to_file, require_free
from tintlab.serving.colorize_options import ColorizeOptions
from tintlab.serving.drawing import Drawing
from tintlab.serving.given_photos import Given, find_photos
from tintlab.serving.painter import Job, Outcome, Painter, Style, write
from tintlab.serving.picture_file import KINDS, PictureFormat
from tintlab.serving.pool import cluster_cores, paint_on_ray
from tintlab.serving.source_photo import bytes_of, digest_of
from tintlab.tracking.models import find_model

PIPE = Path("-")
DEFAULT_OUT = Path("colored")
MAX_STDIN_BYTES = 256 << 20
"""As of a file, see `data.sources.photo_bytes`."""


class Destination(NamedTuple):
    """Where pictures go: to stdout, to a file of that name, or into a folder."""

    path: Path
    stdout: bool = False
    file: bool = False


def colorize(options: ColorizeOptions, place: Workspace, as_json: bool, dry_run: bool) -> Result:
    """Colour the photos; exit 4 if some could not be read.

    Raises: ConfigError: the options do not go together. EnvironmentFault: there are no photos, no
        model, or no place to write to. ConflictError: what is there would be written over.
        IntegrityError: the model is damaged.
    """
    drawing = Drawing(options.temperature, options.top_p, options.samples, options.best_of).check()
    to = destination(options, as_json)
    form = picture_format(options, to)
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"workers must be at least 1, got {options.workers}")
    stdin = options.photos == (PIPE,)
    photos = [] if stdin else find_photos(options.photos, None if to.stdout else to.path)
    if (to.stdout or to.file) and len(photos) > 1:
        where = "stdout" if to.stdout else printable(str(to.path))
        raise ConfigError(f"{where} takes one picture, got {len(photos)} photos; give a folder")
    if not to.stdout:
        require_writable(to.path)
    found = find_model(place, options.model)
    if found.cached:
        say(found.cached)
    if dry_run:
        count = 1 if stdin else len(photos)
        return Result({"inputs": count, "model": found.label}, f"{count} photos, {found.label}")
    model, config = load_model(found.folder)
    style = Style(
        options.short_side_px or config.data.crop_px,
        drawing.at(config.evaluation.temperature),
        options.seed,
        form,
    )
    with ProgressLine() as line:
        if stdin or to.stdout:
            painter = Painter(model, style)
            return _piped(painter, photos[0] if photos else None, to, found.label)
        if to.file:
            report = colorize_to_file(model, photos[0], to.path, style, line.show)
            return report.result(found.label, to.path)
        report = _many(options, place, photos, model, style, line, to.path)
    keep(report, found.label, to.path)
    return report.result(found.label, to.path)


def _many(
    options: ColorizeOptions,
    place: Workspace,
    photos: list[Given],
    model: Colorizer,
    style: Style,
    line: ProgressLine,
    out: Path,
) -> ColorizeReport:
    """Photos into a folder, on Ray if that was asked for."""
    if len(photos) == 1 or not ("RAY_ADDRESS" in os.environ or (options.workers or 1) > 1):
        threads = len(os.sched_getaffinity(0))
        return colorize_photos(model, photos, out, style, line.show, threads=threads)
    with connect(place):
        most = cluster_cores()
        workers = options.workers or most
        if workers > most:
            raise ConfigError(f"workers must be at most {most}, the cores there are, got {workers}")

        def paint(jobs: Sequence[Job]) -> Iterator[Outcome]:
            return paint_on_ray(model, style, jobs, workers)

        return colorize_photos(model, photos, out, style, line.show, paint)


def _piped(painter: Painter, photo: Given | None, to: Destination, model: str) -> Result:
    """One photo, from stdin or to stdout."""
    name = "stdin" if photo is None else str(photo.file)
    content = _stdin() if photo is None else bytes_of(photo.file)
    if isinstance(content, Undecodable):
        raise _undecodable(name, content)
    made = painter.picture_of(content)
    if isinstance(made, Undecodable):
        raise _undecodable(name, made)
    picture, outcome = made
    if to.stdout:
        _to_stdout(picture)
    else:
        require_free(to.path, digest_of(content), name)
        write(to.path, picture)
    out = "stdout" if to.stdout else printable(str(to.path))
    notes = notes_on([outcome])
    data = {"model": model, "inputs": 1, "colored": 1, "outputs": [out], "notes": [*notes]}
    text = "\n".join([f"{printable(name)} coloured by {model}, in {out}", *notes])
    return Result(data, text, stdout_taken=to.stdout)


def _undecodable(name: str, why: Undecodable) -> EnvironmentFault:
    return EnvironmentFault(
        f"{printable(name)} could not be decoded: {why.reason}: {why.message}; "
        "give a photo (JPEG, PNG, WebP, TIFF)"
    )


def destination(options: ColorizeOptions, as_json: bool) -> Destination:
    """Where the pictures go. Raises: ConfigError: the options do not say so clearly."""
    stdin, out = PIPE in options.photos, options.out
    if stdin and len(options.photos) > 1:
        raise ConfigError("- is one photo from stdin; give it alone, or files and folders")
    if out == PIPE or (stdin and out is None):
        if as_json:
            raise ConfigError("stdout carries the picture; give --out FILE, or leave out --json")
        if sys.stdout.isatty():
            raise ConfigError("stdout is a terminal; give --out FILE, or redirect it: > photo.png")
        found = Destination(PIPE, stdout=True)
    elif out is None:
        found = Destination(DEFAULT_OUT)
    else:
        found = Destination(out, file=out.suffix.lower() in KINDS and not out.is_dir())
    if (found.stdout or found.file) and options.samples > 1:
        where = "stdout" if found.stdout else printable(str(found.path))
        raise ConfigError(
            f"{where} takes one picture, got --samples {options.samples}; give a folder as --out"
        )
    if stdin and not (found.stdout or found.file):
        raise ConfigError(
            f"a photo from stdin has no name to have in the folder {printable(str(found.path))}; "
            "give --out FILE.png, or leave it out and redirect stdout"
        )
    return found


def picture_format(options: ColorizeOptions, to: Destination) -> PictureFormat:
    """The format of the pictures. Raises: ConfigError: options contradict each other."""
    by_name = KINDS[to.path.suffix.lower()] if to.file else None
    if options.format and by_name and options.format != by_name:
        raise ConfigError(
            f"--format {options.format} contradicts the name {to.path.name}; leave one of them out"
        )
    kind = options.format or by_name or "png"
    return PictureFormat(kind, options.quality, options.side_by_side, options.keep_metadata).check()


def require_writable(out: Path) -> None:
    """Refuse what cannot be written before a model is loaded; makes nothing.

    Raises: EnvironmentFault: the folder, or the one it would be made in, cannot be written.
    """
    whole = out.absolute()
    parent = next(path for path in (whole, *whole.parents) if path.exists())
    if parent.is_file() and parent == whole:
        parent = whole.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        what = "may not be written" if parent.is_dir() else "is a file"
        raise EnvironmentFault(
            f"cannot write to {printable(str(out))}: {printable(str(parent))} {what}; "
            "give another --out"
        )


def _stdin() -> bytes | Undecodable:
    content = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(content) > MAX_STDIN_BYTES:
        return Undecodable("too_many_bytes", f"more than {MAX_STDIN_BYTES:,} bytes")
    return content


def _to_stdout(picture: bytes) -> None:
    try:
        sys.stdout.buffer.write(picture)
        sys.stdout.buffer.flush()
    except OSError as error:
        # What is left in the buffer would be written, and fail, once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise EnvironmentFault(
            f"cannot write the picture to stdout: {error.strerror}; give --out FILE"
        ) from None
