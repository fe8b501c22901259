"""A range test for people: the curve as a picture and as text."""

import numpy as np
from jaxtyping import UInt8

from tintlab.console import table
from tintlab.training.lr_range import SLOW_SHARE, START_SHARE, Curve, Suggestion, flags

ROWS = 20
"""Rows of the text at most."""

BAR = 40
"""Characters of the longest bar."""

INCHES = (8.0, 4.5)
DPI = 100


def picture(curve: Curve, suggestion: Suggestion | None) -> UInt8[np.ndarray, "H W 3"]:
    """Loss over learning rate, with the two suggested rates marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # 1 s that no other stage pays
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    rates = [point.lr for point in curve.points]
    axes.plot(rates, curve.losses, ".", color="#999999", markersize=4, label="each step")
    axes.plot(rates, curve.smoothed, color="#1f5fa8", label="smoothed")
    if suggestion:
        for name, lr, color in (
            ("base", suggestion.base_lr, "#2a8a4a"),
            ("peak", suggestion.peak_lr, "#c0392b"),
        ):
            axes.axvline(lr, color=color, linestyle="--", label=f"{name}_lr {lr:.1e}")
    low, top = _range(curve)
    margin = 0.05 * (top - low)
    axes.set_ylim(low - margin, top + margin)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss, bits per dimension")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def text(curve: Curve, suggestion: Suggestion | None) -> str:
    """The curve in rows, and what follows from it."""
    low, top = _range(curve)
    shown = np.unique(np.linspace(0, len(curve.points) - 1, ROWS).round().astype(int))
    marks = _marks(curve, suggestion, shown)
    rows = []
    for row, index in enumerate(shown):
        loss = float(curve.smoothed[index])
        bar = "█" * round(BAR * (min(loss, top) - low) / (top - low))
        rows.append([f"{curve.points[index].lr:.1e}", f"{loss:.3f}", bar, marks[row]])
    lines = [table(["lr", "loss", "", ""], rows)]
    if curve.ended:
        last = curve.points[-1]
        lines.append(f"ended after step {last.step} at {last.lr:.1e}: {curve.ended}")
    if suggestion is None:
        return "\n".join(
            [*lines, "no suggestion: the loss did not fall; try other bounds or more --steps"]
        )
    lines += [
        f"base_lr {suggestion.base_lr:.1e}: {START_SHARE:.0%} of the fall is done, it has started",
        f"peak_lr {suggestion.peak_lr:.1e}: {SLOW_SHARE:.0%} of the fall is done, it slows",
        *(f"note: {note}" for note in suggestion.notes),
        f"next: tintlab train {' '.join(flags(suggestion))}",
    ]
    return "\n".join(lines)


def _range(curve: Curve) -> tuple[float, float]:
    """From the lowest loss to a little above the first: what a diverging end does not flatten."""
    low, first = float(curve.smoothed.min()), float(curve.losses[0])
    return low, first + max(0.25 * (first - low), 1e-3)


def _marks(curve: Curve, suggestion: Suggestion | None, shown: np.ndarray) -> list[str]:
    """For each shown row, which suggested rate is nearest to it."""
    marks = [""] * len(shown)
    if suggestion:
        x = curve.log_rates[shown]
        for name, lr in (("base", suggestion.base_lr), ("peak", suggestion.peak_lr)):
            row = int(np.abs(x - np.log10(lr)).argmin())
            marks[row] = f"{marks[row]} <- {name}_lr".strip()
    return marks
