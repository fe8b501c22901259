"""What the figures of a sweep's report have in common: look, ranges, and places of values.

A figure is plain data that Plotly draws. Names and values that come from users are escaped, as
Plotly reads some HTML in its labels.
"""

import math
import statistics
from collections.abc import Sequence
from html import escape
from typing import Any

from tintlab.sweep.answer import shown
from tintlab.sweep.importance import are_numbers, by_ratio
from tintlab.sweep.records import Mode

Figure = dict[str, Any]
"""`data` and `layout`, as Plotly takes them."""

BLUE, ORANGE, GREEN, RED, GREY = "#1f5fa8", "#d97b29", "#2a8a4a", "#c0392b", "#8a8a8a"
PURPLE, TEAL = "#7d4fa3", "#1d9a9a"
GOOD, MIDDLE, BAD = (11, 60, 125), (111, 161, 207), (226, 208, 176)
"""From the best score to the worst, dark to light: seen on paper and by the colour-blind."""

FAR = 10.0
"""Scores further beyond the median than this many times its distance from the best are drawn where
the others end, so that one that diverged does not hide what differs among the others."""

FAR_SHARE = 0.1
"""At most so many of the scores, and one of a few: more are no exception."""

APART = 0.05
"""Marks of an axis from 0 to 1 that are closer would be written over each other."""

UNUSED = "not used"
"""Where a key does not exist, under some values of another."""
UNUSED_AT = -0.1
"""Its place on an axis from 0 to 1."""

FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "#222"}
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
EDGE = {"color": "#fff", "width": 0.8}


def layout(height: int, left: int = 60, top: int = 30, bottom: int = 50, **rest: Any) -> Figure:
    """The look of a figure; as wide as its place."""
    margin = {"l": left, "r": 20, "t": top, "b": bottom}
    look = {"font": FONT, "paper_bgcolor": "#fff", "plot_bgcolor": "#fff", "hovermode": "closest"}
    return {"height": height, "autosize": True, "margin": margin, **look, **rest}


def axis(title: str | None, **rest: Any) -> Figure:
    """An axis with a light grid and its title."""
    look = {"gridcolor": "#e6e6e6", "zeroline": False, "automargin": True, "linecolor": "#999"}
    return {**look, **({"title": {"text": escape(title), "font": FONT}} if title else {}), **rest}


def label(metric: str) -> str:
    """A metric as an axis names it."""
    return metric.removeprefix("val/").replace("_", " ")


def finite(value: float | None) -> bool:
    """Whether there is a value that can be drawn."""
    return value is not None and math.isfinite(value)


def cut(scores: Sequence[float], mode: Mode) -> list[float]:
    """The scores, those far off moved to where the others end (see FAR)."""
    if len(scores) < 3:
        return list(scores)
    costs = sorted(scores if mode == "min" else [-score for score in scores])
    middle = statistics.median(costs)
    few = max(1, int(FAR_SHARE * len(costs)))
    end = max(middle + FAR * (middle - costs[0]), costs[-1 - few])
    return [min(score, end) if mode == "min" else max(score, -end) for score in scores]


def shade(place: float) -> str:
    """The colour of a place in the ranking, from 0 (best) to 1."""
    first, second = (GOOD, MIDDLE) if place < 0.5 else (MIDDLE, BAD)
    way = 2 * place if place < 0.5 else 2 * place - 1
    mixed = [round(a + (b - a) * way) for a, b in zip(first, second, strict=True)]
    return f"rgb({mixed[0]},{mixed[1]},{mixed[2]})"


class Axis:
    """Values of one key on an axis from 0 to 1; None is a key that does not exist."""

    def __init__(self, values: Sequence[Any]) -> None:
        there = [value for value in values if value is not None]
        self.words = [escape(shown(v)) if v is not None else UNUSED for v in values]
        if there and are_numbers(there) and len(set(there)) > 1:
            places, self.ticks = self._numbers(values, there)
        else:
            names = list(dict.fromkeys(sorted(map(shown, there))))
            gap = 1 / max(1, len(names) - 1)
            at = {name: i * gap if len(names) > 1 else 0.5 for i, name in enumerate(names)}
            places = [at[shown(v)] if v is not None else UNUSED_AT for v in values]
            self.ticks = [(place, escape(name)) for name, place in at.items()]
        self.places = places
        if len(there) < len(values):
            self.ticks.append((UNUSED_AT, UNUSED))

    @staticmethod
    def _numbers(
        values: Sequence[Any], there: Sequence[int | float]
    ) -> tuple[list[float], list[tuple[float, str]]]:
        log = by_ratio(there)
        ends = (min(there), max(there))
        low, high = (math.log(end) if log else end for end in ends)

        def place(value: int | float) -> float:
            return ((math.log(value) if log else value) - low) / (high - low)

        distinct = sorted(set(there))
        if len(distinct) > 5:
            fifths = [low + (high - low) * part / 4 for part in range(5)]
            distinct = [math.exp(mark) if log else mark for mark in fifths]
            if all(isinstance(value, int) for value in there):
                distinct = sorted({round(mark) for mark in distinct})
        ticks = [(place(mark), f"{mark:.3g}") for mark in distinct]
        readable: list[tuple[float, str]] = []
        for tick in ticks:
            if not readable or tick[0] - readable[-1][0] >= APART:
                readable.append(tick)
        return [place(v) if v is not None else UNUSED_AT for v in values], readable
