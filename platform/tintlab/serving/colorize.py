"""Photos in, coloured photos out: same size, same lightness, never one photo over another."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tintlab.data.preparation.out_folder import claimed
from tintlab.data.preparation.pace import Pace
from tintlab.data.sources.listing import printable
from tintlab.data.storage import TEMPORARY, resolve
from tintlab.errors import ConflictError, EnvironmentFault
from tintlab.model.colorizer import Colorizer
from tintlab.serving.account import REPORT, SHEET, ColorizeReport, Quarantined, notes_on
from tintlab.serving.given_photos import Given, find_photos
from tintlab.serving.output_names import OutputNames
from tintlab.serving.painter import Job, Outcome, Painter, Style
from tintlab.serving.picture_file import source_id, stamp_of

_LEFTOVER = re.compile(rf"\..+\.(png|jpg|webp|json){re.escape(TEMPORARY)}[0-9a-f]{{16}}", re.DOTALL)
"""What `storage.written` calls a file of ours that is not whole yet."""

Show = Callable[[str], None]
Paint = Callable[[Sequence[Job]], Iterable[Outcome]]
"""Does jobs, in any order; `Painter.paint`, or `pool.paint_on_ray` with its other arguments."""


def colorize_files(
    model: Colorizer,
    sources: Sequence[Path],
    out: Path,
    style: Style,
    show: Show = lambda line: None,
) -> ColorizeReport:
    """Colour files, folders and globs into `out`, in this process; see `colorize_photos`.

    Raises: as `find_photos` and `colorize_photos`.
    """
    style.check(model)
    return colorize_photos(model, find_photos(sources, out), out, style, show)


def colorize_photos(
    model: Colorizer,
    photos: Sequence[Given],
    out: Path,
    style: Style,
    show: Show = lambda line: None,
    paint: Paint | None = None,
    threads: int = 1,
) -> ColorizeReport:
    """Colour photos into `out`, one `<stem>.png` each; a bad one stops no other.

    What lies deeper in a folder that was given lies as deep in `out`. Several samples of a photo
    are `<stem>_1.png`, `<stem>_2.png` and so on; photos of equal stems get `<stem>-2.png` and so
    on. A file already in `out` is replaced only if it was made from the same source, and not made
    again if it was made by the same recipe. A photo looks the same in any company.

    Args: show: called with a line of progress. threads: see `Painter`, where no `paint` is given.
    Raises: EnvironmentFault: nothing can be decoded, or `out` cannot be written. ConfigError: the
        style is impossible. ConflictError: another call writes to `out`. IntegrityError: the
        model's figures are not finite.
    """
    style.check(model)
    if out.exists() and not out.is_dir():
        raise EnvironmentFault(
            f"--out must be a folder, and {printable(str(out))} is a file; choose another"
        )
    with claimed(*resolve(str(out)), command="colorize"):
        remove_leftovers(out, photos)
        names = OutputNames(out, photos, style.form.suffix, reserved=(REPORT, SHEET))
        samples = style.drawing.samples
        numbers = [None] if samples == 1 else [*range(1, samples + 1)]
        targets = [tuple(names.take(photo, number) for number in numbers) for photo in photos]
        return _done(photos, targets, paint or painting(model, style, show, threads), show)


def colorize_to_file(
    model: Colorizer,
    photo: Given,
    target: Path,
    style: Style,
    show: Show = lambda line: None,
) -> ColorizeReport:
    """Colour one photo into a file of that very name.

    Raises: as `colorize_files`. ConflictError: there is a file that was not made from this photo.
    """
    style.check(model)
    require_free(target, source_id(photo.file), photo.file.name)
    return _done([photo], [(target,)], painting(model, style, show), show)


def require_free(target: Path, source: str, name: str) -> None:
    """Refuse to write over anything but the picture of this very source.

    Raises: ConflictError: there is something else.
    """
    stamp = stamp_of(target)
    if os.path.lexists(target) and (stamp is None or stamp.source != source):
        raise ConflictError(
            f"{printable(str(target))} is there and was not made from {printable(name)}; "
            "give another --out, or a folder"
        )


def painting(model: Colorizer, style: Style, show: Show, threads: int = 1) -> Paint:
    """The painter of this process; of a photo alone it shows how far it is."""

    def paint(jobs: Sequence[Job]) -> Iterator[Outcome]:
        def row_done(row: int, rows: int) -> None:
            show(f"colorize: {row / rows:.0%} of the colours drawn")

        painter = Painter(model, style, threads)
        return painter.paint(jobs, row_done if len(jobs) == 1 else None)

    return paint


def _done(
    photos: Sequence[Given], targets: Sequence[tuple[Path, ...]], paint: Paint, show: Show
) -> ColorizeReport:
    jobs = [
        Job(number, str(photo.file.absolute()), source_id(photo.file), tuple(map(str, to)))
        for number, (photo, to) in enumerate(zip(photos, targets, strict=True))
    ]
    pace = Pace("colorize:", "photos", len(photos))
    outcomes: list[Outcome] = []
    worked = 0
    for outcome in paint(jobs):
        outcomes.append(outcome)
        worked += not outcome.done_before
        show(pace.line(len(outcomes), worked))
    assert len(outcomes) == len(photos)
    return _report(photos, targets, sorted(outcomes, key=lambda outcome: outcome.number))


def _report(
    photos: Sequence[Given], targets: Sequence[tuple[Path, ...]], outcomes: list[Outcome]
) -> ColorizeReport:
    bad = [outcome for outcome in outcomes if outcome.reason]
    good = [outcome for outcome in outcomes if not outcome.reason]
    quarantined = [
        Quarantined(photos[outcome.number].file, outcome.reason, outcome.message) for outcome in bad
    ]
    if not good:
        raise EnvironmentFault(
            f"none of {len(photos)} files could be decoded; the first, {quarantined[0].line}; "
            "give photos (JPEG, PNG, WebP, TIFF)"
        )
    made = [(photos[o.number].file, target) for o in good for target in targets[o.number]]
    return ColorizeReport(
        inputs=len(photos),
        colored=len(good),
        quarantined=quarantined,
        outputs=[target for _, target in made],
        sources=[source for source, _ in made],
        done_before=sum(outcome.done_before for outcome in good),
        pixels=sum(outcome.pixels for outcome in good),
        reduced_pixels=sum(outcome.reduced_pixels for outcome in good),
        notes=notes_on(good),
    )


def remove_leftovers(out: Path, photos: Sequence[Given]) -> None:
    """Remove what calls that were killed had begun to write; the claim on `out` must be held."""
    for folder in {out, *(out / photo.folder for photo in photos)}:
        for file in folder.glob(f".*{TEMPORARY}*"):
            if _LEFTOVER.fullmatch(file.name):
                file.unlink(missing_ok=True)
