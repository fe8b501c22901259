"""The figures of a sweep's report, as data that Plotly draws.

Plain mappings, so that a page of 500 trials is made in a moment; no WebGL, so that it opens in any
browser and prints.
"""

import math
import statistics
from collections.abc import Sequence
from html import escape
from typing import Any

from tintlab.sweep.answer import (
    completed,
    counted,
    described,
    is_reference,
    pareto_front,
    score_interval,
    scores,
    searched,
)
from tintlab.sweep.axes import (
    BLUE,
    EDGE,
    GREEN,
    GREY,
    LEGEND,
    ORANGE,
    PURPLE,
    RED,
    TEAL,
    Axis,
    Figure,
    axis,
    cut,
    finite,
    label,
    layout,
    shade,
)
from tintlab.sweep.importance import Importance, are_numbers, by_ratio
from tintlab.sweep.records import RunRecord, State, SweepRecord, TrialRecord

SEEDS_SHOWN = 15
"""Configurations whose seeds are drawn one by one."""
BEST_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, TEAL)
"""Of the learning curves that have a name of their own, best first."""
LINES_DRAWN = 500
"""Of the parallel coordinates; of more configurations the best are drawn."""
POINTS_MARKED = 3000
"""Up to so many reports in all, learning curves have a dot for each."""
CROWD = 100
"""From more runs on, their lines are thin."""

STATES: dict[State, str] = {
    "complete": "other complete",
    "stopped": "stopped early",
    "running": "unfinished",
    "failed": "failed",
}
STYLES: dict[str, dict[str, Any]] = {
    "other complete": {"color": "#bbb", "width": 1.2},
    "stopped early": {"color": "#a9713f", "width": 1.2, "dash": "dash"},
    "unfinished": {"color": GREY, "width": 1.3, "dash": "dashdot"},
    "failed": {"color": RED, "width": 1.6, "dash": "dot"},
}


def seeds_figure(record: SweepRecord) -> Figure | None:
    """The best configurations with their seeds and intervals; None if none has two seeds."""
    trials = completed(record)[:SEEDS_SHOWN]
    if not any(len(trial.complete) > 1 for trial in trials):
        return None
    rows = [_name(trial, is_reference(record, trial)) for trial in trials]
    dots = [
        (value, row) for trial, row in zip(trials, rows, strict=True) for value in scores(trial)
    ]
    values = [value for value, _ in dots]
    margin = 0.35 * (max(values) - min(values)) or abs(values[0]) * 0.01 or 0.01
    halves = []
    for trial in trials:
        interval = score_interval(trial)
        halves.append(interval.high - interval.mean if interval else 0.0)
    means = {
        "type": "scatter",
        "mode": "markers",
        "name": "mean with 95 % interval",
        "x": [trial.score for trial in trials],
        "y": rows,
        "marker": {"size": 9, "color": BLUE, "symbol": "diamond"},
        "error_x": {"type": "data", "array": halves, "color": BLUE, "thickness": 1.5, "width": 5},
        "text": [escape(described(trial.values)) for trial in trials],
        "hovertemplate": "%{y}: %{x:.4f} ± %{error_x.array:.4f}<br>%{text}<extra></extra>",
    }
    each = {
        "type": "scatter",
        "mode": "markers",
        "name": "one seed",
        "x": values,
        "y": [row for _, row in dots],
        "marker": {"size": 7, "color": ORANGE, "opacity": 0.9, "line": EDGE},
        "hovertemplate": "%{y}: %{x:.4f}<extra>one seed</extra>",
    }
    look = layout(
        height=90 + 26 * len(trials),
        xaxis=axis(label(record.metric), range=[min(values) - margin, max(values) + margin]),
        yaxis=axis(None, autorange="reversed", type="category", showgrid=False),
        legend=LEGEND,
    )
    return {"data": [means, each], "layout": look}


def importance_figure(found: Sequence[Importance]) -> Figure:
    """A bar for each key, with how far it moves when configurations are drawn anew."""
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [one.share for one in found],
        "y": [escape(one.key) for one in found],
        "marker": {"color": ORANGE},
        "error_x": {
            "type": "data",
            "array": [one.high - one.share for one in found],
            "arrayminus": [one.share - one.low for one in found],
            "color": "#444",
            "thickness": 1.2,
        },
        "hovertemplate": "%{y}: %{x:.0%}<extra></extra>",
    }
    top = max(1.0, *(one.high for one in found))
    look = layout(
        height=80 + 34 * len(found),
        xaxis=axis("share of what all keys decide", range=[0, top], tickformat=".0%"),
        yaxis=axis(None, autorange="reversed", type="category", showgrid=False),
        showlegend=False,
    )
    return {"data": [bars], "layout": look}


def parallel_figure(record: SweepRecord) -> Figure:
    """Every complete configuration as a line through its values to its score."""
    trials = completed(record)[:LINES_DRAWN]
    keys = searched(trials)
    axes = [Axis([trial.values.get(key) for trial in trials]) for key in keys]
    scored = [trial.score for trial in trials if trial.score is not None]
    axes.append(Axis(cut(scored, record.mode)))
    data = []
    for place in reversed(range(len(trials))):  # the best are drawn last, on top
        best = place == 0
        color = shade(place / max(1, len(trials) - 1))
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(range(len(axes))),
                "y": [one.places[place] for one in axes],
                "line": {"color": color, "width": 4 if best else 1.4},
                "marker": {"size": 7 if best else 4, "color": color},
                "customdata": [*(one.words[place] for one in axes[:-1]), f"{scored[place]:.4f}"],
                "hovertemplate": f"trial {trials[place].number}: %{{customdata}}<extra></extra>",
            }
        )
    notes = [
        {
            "x": at,
            "y": height,
            "text": word,
            "showarrow": False,
            "xanchor": "left",
            "xshift": 6,
            "font": {"size": 11, "color": "#444"},
            "bgcolor": "rgba(255,255,255,0.75)",
            "borderpad": 1,
        }
        for at, one in enumerate(axes)
        for height, word in one.ticks
    ]
    names = [escape(key).replace(".", ".<br>", 1) for key in keys] + [label(record.metric)]
    look = layout(
        height=440,
        left=20,
        top=60,
        bottom=10,
        xaxis=axis(
            None,
            tickvals=list(range(len(axes))),
            ticktext=names,
            range=[-0.1, len(axes) - 0.5],
            side="top",
            gridcolor="#777",
            fixedrange=True,
        ),
        yaxis={"visible": False, "range": [-0.17, 1.06], "fixedrange": True},
        annotations=notes,
        showlegend=False,
        dragmode="select",
    )
    return {"data": data, "layout": look}


def slice_figures(record: SweepRecord) -> list[Figure]:
    """For each key that took several values: the score over its value, a dot a configuration."""
    trials = completed(record)
    scored = [trial.score for trial in trials if trial.score is not None]
    score = dict(zip([t.number for t in trials], cut(scored, record.mode), strict=True))
    stopped = [trial for trial in record.trials if trial.state == "stopped"]
    figures = []
    for key in searched(trials):
        here = [trial for trial in reversed(trials) if key in trial.values]  # the best on top
        values = [trial.values[key] for trial in here]
        if len(set(map(repr, values))) < 2:
            continue
        numeric = are_numbers(values)
        own = [t for t in stopped if key in t.values and are_numbers([t.values[key]]) == numeric]
        low, high = min(score.values()), max(score.values())
        worse = high + 0.1 * (high - low) if record.mode == "min" else low - 0.1 * (high - low)
        data = [
            _dots(own, key, [worse] * len(own), numeric, {"color": GREY, "symbol": "x-thin-open"}),
            _dots(
                here,
                key,
                [score[trial.number] for trial in here],
                numeric,
                {
                    "color": [ORANGE if trial is trials[0] else BLUE for trial in here],
                    "symbol": ["star" if trial is trials[0] else "circle" for trial in here],
                    "size": [14 if trial is trials[0] else 8 for trial in here],
                    "opacity": [1 if trial is trials[0] else 0.7 for trial in here],
                    "line": EDGE,
                },
            ),
        ]
        kind: dict[str, Any] = dict(_CATEGORIES)
        if numeric:
            every = [*values, *(trial.values[key] for trial in own)]
            kind = _log_axis(every) if by_ratio(every) else {"type": "linear"}
        look = layout(
            height=270,
            left=55,
            top=10,
            xaxis=axis(key, tickfont={"size": 11}, tickangle=0, nticks=6, **kind),
            yaxis=axis(label(record.metric), tickfont={"size": 11}),
            showlegend=False,
        )
        figures.append({"data": data, "layout": look})
    return figures


def curves_figure(record: SweepRecord) -> Figure | None:
    """The leading metric by step; stopped ones dashed, failed ones dotted; None without any."""
    best = [trial.number for trial in completed(record)[: len(BEST_COLOURS)]]
    groups: dict[str, list[tuple[TrialRecord, RunRecord]]] = {}
    for trial in record.ranked:
        for run in trial.runs:
            if any(map(finite, run.curve.values())):
                own = trial.number in best and run.state == "complete"
                name = f"trial {trial.number}" if own else STATES[run.state]
                groups.setdefault(name, []).append((trial, run))
    if not groups:
        return None
    reports = sum(len(run.curve) for group in groups.values() for _, run in group)
    named = [f"trial {number}" for number in best]
    data = []
    for name in [*(name for name in STATES.values() if name in groups), *reversed(named)]:
        group = groups[name]
        place = named.index(name) if name in named else None
        drawn = {
            "type": "scatter",
            "mode": "lines+markers" if reports <= POINTS_MARKED else "lines",
            "marker": {"size": 4},
            "hovertemplate": "%{customdata}, step %{x}: %{y:.4f}<extra></extra>",
            **_joined(group),
        }
        line: dict[str, Any]
        if place is None:
            line = {**STYLES[name], **({"width": 0.6} if len(group) > CROWD else {})}
            title = f"{name}: {counted(len(group), 'run')}"
        else:
            line = {"color": BEST_COLOURS[place], "width": 2 if place else 3}
            title = f"{name}{'' if place else ' (best)'}"
        rank = place if place is not None else len(best) + list(STATES.values()).index(name)
        data.append({**drawn, "name": title, "line": line, "legendrank": rank + 1})
    look = layout(
        height=430,
        left=60,
        xaxis=axis("optimizer step", rangemode="tozero"),
        yaxis=axis(label(record.metric), range=_curve_range(record)),
        showlegend=True,
        legend={"orientation": "v", "x": 1.01, "y": 1},
    )
    return {"data": data, "layout": look}


def pareto_figures(record: SweepRecord) -> list[Figure]:
    """Each further objective over the leading one, the Pareto front marked."""
    front = {trial.number for trial in pareto_front(record)}
    figures = []
    for name, mode in list(record.objectives.items())[1:]:
        trials = [trial for trial in completed(record) if finite(trial.mean(name))]
        groups = {
            "dominated": [trial for trial in trials if trial.number not in front],
            "Pareto front": [trial for trial in trials if trial.number in front],
        }
        data = [
            {
                "type": "scatter",
                "mode": "markers",
                "name": title,
                "x": [trial.score for trial in group],
                "y": [trial.mean(name) for trial in group],
                "text": [_hover(trial) for trial in group],
                "marker": _FRONT if title == "Pareto front" else _DOMINATED,
                "hovertemplate": "%{text}<br>%{x:.4f}, %{y:.4f}<extra></extra>",
            }
            for title, group in groups.items()
        ]
        look = layout(
            height=360,
            xaxis=axis(f"{label(record.metric)} ({record.mode})"),
            yaxis=axis(f"{label(name)} ({mode})"),
            legend=LEGEND,
        )
        figures.append({"data": data, "layout": look})
    return figures


_DOMINATED: dict[str, Any] = {"size": 8, "line": EDGE, "color": GREY}
_FRONT: dict[str, Any] = {"size": 11, "line": EDGE, "color": BLUE, "symbol": "diamond"}
_CATEGORIES: dict[str, Any] = {"type": "category", "categoryorder": "category ascending"}


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """With 1, 2 and 5 of every power of ten: Plotly's own labels leave out the zeros."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    marks = [digit * 10.0**power for power in range(low, high + 1) for digit in (1, 2, 5)]
    shown = [mark for mark in marks if min(values) / 1.2 <= mark <= max(values) * 1.2]
    return {"type": "log", "tickvals": shown, "ticktext": [f"{mark:g}" for mark in shown]}


def _dots(
    trials: Sequence[TrialRecord],
    key: str,
    heights: Sequence[float],
    numeric: bool,
    marker: dict[str, Any],
) -> Figure:
    values = [trial.values[key] for trial in trials]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": values if numeric else [escape(str(value)) for value in values],
        "y": list(heights),
        "text": [_hover(trial) for trial in trials],
        "marker": {"size": 8, **marker},
        "hovertemplate": "%{text}<extra></extra>",
    }


def _hover(trial: TrialRecord) -> str:
    score = f"{trial.score:.4f}" if trial.score is not None else "no score"
    state = f", stopped at step {trial.step}" if trial.state == "stopped" else ""
    return f"trial {trial.number}: {score}{state}<br>" + "<br>".join(
        escape(described({key: value})) for key, value in trial.values.items()
    )


def _name(trial: TrialRecord, reference: bool) -> str:
    return f"trial {trial.number}{' (reference)' if reference else ''}"


def _joined(group: Sequence[tuple[TrialRecord, RunRecord]]) -> Figure:
    """Curves as one line with gaps: hundreds of traces would make the page slow."""
    x: list[int | None] = []
    y: list[float | None] = []
    who: list[str] = []
    for trial, run in group:
        points = [(step, run.curve[step]) for step in sorted(run.curve)]
        points = [(step, value) for step, value in points if finite(value)]
        x += [*(step for step, _ in points), None]
        y += [*(value for _, value in points), None]
        who += [f"trial {trial.number}, seed {run.seed}"] * (len(points) + 1)
    return {"x": x, "y": y, "customdata": who}


def _curve_range(record: SweepRecord) -> list[float]:
    """From the best value to where nine tenths of all values are: first reports may be far off."""
    values = sorted(
        value
        for trial in record.trials
        for run in trial.runs
        for value in run.curve.values()
        if finite(value)
    )
    if len(values) < 2:
        return [values[0] - 1, values[0] + 1]
    tenths = statistics.quantiles(values, n=10)
    low, high = (values[0], tenths[-1]) if record.mode == "min" else (tenths[0], values[-1])
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - margin, high + margin]
