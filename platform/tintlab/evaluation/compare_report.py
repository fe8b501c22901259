"""Comparisons of one model with others for people: a page with the figures, and pictures side by
side of the photos on which they differ most and least."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from tintlab.evaluation.compare import Comparison, Difference
from tintlab.evaluation.picture import strip
from tintlab.evaluation.report import png_uri
from tintlab.html_page import figure, grid, page, text

COLUMNS = ("id", "first", "other", "gain", "95 % interval", "better on", "sure")
SHOWN = 3
"""Photos of each end, and of the middle."""

Pictures = Sequence[UInt8[np.ndarray, "_ _ 3"]]


def rows_of(comparison: Comparison) -> list[list[str]]:
    """The figures as a table has them, see COLUMNS."""
    return [_row(found, comparison.photos) for found in comparison.differences]


def _row(found: Difference, photos: int) -> list[str]:
    ties = photos - found.wins - found.losses
    rate = found.win_rate
    return [
        found.metric,
        f"{found.one:.4f}",
        f"{found.other:.4f}",
        f"{found.gain.mean:+.4f}",
        f"{found.gain.low:+.4f} to {found.gain.high:+.4f}",
        f"{100 * rate.mean:.0f} % [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
        + (f", {ties} equal" if ties else ""),
        "yes" if found.sure else "no",
    ]


def chosen(gain: np.ndarray) -> dict[str, list[int]]:
    """Photos to show, by number: those where the first model gains most, least, and between."""
    order = np.argsort(np.nan_to_num(gain), kind="stable").tolist()
    count = min(SHOWN, len(order))
    middle = (len(order) - count) // 2
    return {
        "most for the first": order[::-1][:count],
        "in the middle": order[middle : middle + count],
        "most against it": order[:count],
    }


def html(
    names: Sequence[str],
    comparisons: Sequence[Comparison],
    pictures: Mapping[str, Sequence[tuple[str, Pictures]]],
) -> str:
    """The page.

    Args: names: of the models, the first being compared with each other one. pictures: title ->
        photos, each its id with grey, every model's sample in order, and truth.
    """
    title = f"{names[0]} compared"
    body = [f"<h1>{text(title)}</h1>"]
    for comparison in comparisons:
        body += [
            f"<h2>Against {text(comparison.other)}</h2>",
            f"<p><b>{text(comparison.verdict)}.</b></p>",
            grid(COLUMNS, rows_of(comparison)),
        ]
    body += [
        "<p>A gain is how much better the first is, photo by photo, whichever way the metric is "
        "better; intervals are over scenes. A difference is sure if its interval leaves out 0.</p>",
        f"<h2>Photos: grey, {text(', '.join(names))}, true</h2>",
    ]
    for title, photos in pictures.items():
        body += [f"<h3>{text(title.capitalize())}</h3>"]
        body += [figure(png_uri(strip([row])), text(photo), small=True) for photo, row in photos]
    return page(title, body)
