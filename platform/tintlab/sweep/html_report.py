"""The report of a sweep: one page with its answer, and the same as data.

report.html   one file that needs no other and no network: Plotly is inside, once
trials.csv    a row for each run
trials.json   the whole record

Each is whole or not there. What may be secret is taken out before anything is written.
"""

import base64
import csv
import gzip
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from tintlab.config import Workspace
from tintlab.data.contact_sheet import png
from tintlab.evaluation.picture import write_whole
from tintlab.html_page import page, text
from tintlab.redaction import redacted, redacted_tree
from tintlab.sweep.answer import answer, completed, counted
from tintlab.sweep.axes import Figure
from tintlab.sweep.comparison import ComparedPhotos, Picture
from tintlab.sweep.figures import (
    curves_figure,
    importance_figure,
    parallel_figure,
    pareto_figures,
    seeds_figure,
    slice_figures,
)
from tintlab.sweep.importance import LEAST, best_count, importances
from tintlab.sweep.records import SweepRecord
from tintlab.sweep.report_sections import (
    LOCAL_UI,
    commands_part,
    cost_table,
    failures_part,
    headline,
    lineage_part,
    photos_table,
    ranking_table,
)

FORMAT, VERSION = "tintlab-sweep-report", 1

PAGE, CSV, JSON = "report.html", "trials.csv", "trials.json"

SECURITY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)
"""The page asks nobody for anything: a browser holds it to that."""


def write_report(
    record: SweepRecord,
    folder: Path,
    pictures: Sequence[ComparedPhotos] = (),
    workspace: Workspace | None = None,
) -> Path:
    """Write the report into a folder; older ones are replaced.

    Args: workspace: where the sweep is kept, for commands and links; None: where they look anyway.
    Returns: the page.
    Raises: OSError: the folder cannot be written.
    """
    clean = without_secrets(record)
    write_whole(folder / CSV, _csv(clean).encode())
    write_whole(folder / JSON, (json.dumps(_document(clean), indent=1) + "\n").encode())
    write_whole(folder / PAGE, html(clean, pictures, workspace).encode())
    return folder / PAGE


def without_secrets(record: SweepRecord) -> SweepRecord:
    """The record with every secret in its texts and values taken out."""
    trials = tuple(
        replace(
            trial,
            values=redacted_tree(trial.values),
            runs=tuple(
                replace(run, reason=redacted(run.reason) if run.reason else None)
                for run in trial.runs
            ),
        )
        for trial in record.trials
    )
    return replace(
        record,
        name=redacted(record.name),
        question=redacted(record.question),
        space=redacted(record.space),
        reference=redacted_tree(record.reference),
        base=redacted_tree(record.base),
        shards_uri=redacted(record.shards_uri),
        code=redacted_tree(record.code),
        overrides=tuple(map(redacted, record.overrides)),
        ended=redacted(record.ended) if record.ended else record.ended,
        trials=trials,
    )


def html(
    record: SweepRecord, pictures: Sequence[ComparedPhotos] = (), workspace: Workspace | None = None
) -> str:
    """The page."""
    ui = workspace.tracking_uri if workspace else ""
    ui = redacted(ui.rstrip("/")) if ui.startswith("http") else LOCAL_UI
    drawn: dict[str, Figure] = {}
    parts = {
        "answer": [f'<p class="answer">{text(answer(record))}</p>', *_seeds(record, drawn)],
        "ranking": _ranking(record, ui),
        "pareto": _pareto(record, drawn),
        "importance": _importance(record, drawn),
        "parallel": _parallel(record, drawn),
        "slices": _slices(record, drawn),
        "curves": _curves(record, drawn),
        "pictures": _pictures(pictures),
        "failures": failures_part(record, ui),
        "cost": [cost_table(record)],
        "lineage": [lineage_part(record)],
        "commands": commands_part(record, workspace),
    }
    parts = {name: part for name, part in parts.items() if part}
    links = "".join(f'<a href="#s-{name}">{_TITLES[name]}</a>' for name in parts)
    body = [
        f"<h1>{text(record.question)}</h1>",
        f"<p>{headline(record)}</p>",
        f"<nav>{links}</nav>",
        "<noscript><p>The figures need JavaScript; the tables do not.</p></noscript>",
    ]
    for name, part in parts.items():
        body += [f'<h2 id="s-{name}">{_TITLES[name]}</h2>', *part]
    body += [
        f'<script type="application/json" id="figures">{_script_json(drawn)}</script>',
        f'<script type="text/plain" id="plotly">{_plotly()}</script>',
        f"<script>{_own('report.js')}</script>",
    ]
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{SECURITY}">'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
    )
    return page(f"{record.name}: {record.question}", body, _own("report.css"), head)


_TITLES = {
    "answer": "Answer",
    "ranking": "Ranking",
    "pareto": "Trade-offs",
    "importance": "Importance",
    "parallel": "All configurations",
    "slices": "Each key",
    "curves": "Learning curves",
    "pictures": "Pictures",
    "failures": "Failures",
    "cost": "Cost",
    "lineage": "Lineage",
    "commands": "Commands",
}


def _ranking(record: SweepRecord, ui: str) -> list[str]:
    if not record.trials:
        return ["<p>No configuration was begun.</p>"]
    seeds = (
        "The mean over seeds decides; ± is half its 95 % interval (Student's t, wide with few "
        "seeds). "
        if record.replicates > 1
        else ""
    )
    marks = "Green is the best, yellow the reference. " if record.reference else ""
    return [
        f'<p class="note">{seeds}{marks}A click on a heading sorts. A link opens the run in MLflow '
        f"({text(ui)}).</p>",
        ranking_table(record, ui),
    ]


def _place(name: str, figure: Figure, drawn: dict[str, Figure], told: str) -> str:
    drawn[name] = figure
    height = figure["layout"]["height"]
    return (
        f'<div class="plot" id="{name}" style="height:{height}px" role="img" '
        f'aria-label="{text(told)}"></div>'
    )


def _seeds(record: SweepRecord, drawn: dict[str, Figure]) -> list[str]:
    figure = seeds_figure(record)
    if figure is None:
        return []
    return [
        _place("seeds", figure, drawn, "the best configurations, their seeds and intervals"),
        '<p class="note">The best configurations: mean, 95 % interval and each seed. An interval '
        "that leaves the figure is wider than it.</p>",
    ]


def _pareto(record: SweepRecord, drawn: dict[str, Figure]) -> list[str]:
    return [
        _place(f"pareto{at}", figure, drawn, "one objective over another")
        for at, figure in enumerate(pareto_figures(record))
    ]


def _importance(record: SweepRecord, drawn: dict[str, Figure]) -> list[str]:
    count = len(completed(record))
    if count < LEAST:
        return [
            f"<p>{counted(count, 'complete configuration')}: too few to tell which key matters. "
            f"It takes {LEAST}, and a few times as many to be sure.</p>"
        ]
    found = importances(record)
    if not found:
        return ["<p>There is one key or none that took more than one value.</p>"]
    return [
        _place("importance", importance_figure(found), drawn, "importance of each key"),
        f'<p class="note">PED-ANOVA: how differently a key is spread among the best '
        f"{best_count(count)} configurations and among all {count}. Lines show where four of five "
        "results lie when configurations are drawn anew: where they are long, or overlap, do not "
        "rank the keys by them.</p>",
    ]


def _parallel(record: SweepRecord, drawn: dict[str, Figure]) -> list[str]:
    if len(completed(record)) < 2:
        return []
    return [
        '<p class="note">A line for each complete configuration, dark for good; the thick one is '
        "the best. Drag a box over a part of an axis to keep the lines through it; double-click to "
        "have all back.</p>",
        _place("parallel", parallel_figure(record), drawn, "parallel coordinates"),
    ]


def _slices(record: SweepRecord, drawn: dict[str, Figure]) -> list[str]:
    figures = slice_figures(record)
    if not figures:
        return []
    places = [
        _place(f"slice{at}", figure, drawn, "score over the values of a key")
        for at, figure in enumerate(figures)
    ]
    return [
        '<p class="note">The score of complete configurations over each key; the star is the best. '
        "Crosses at the edge are configurations that were stopped early, at their value.</p>",
        f'<div class="slices">{"".join(places)}</div>',
    ]


def _curves(record: SweepRecord, drawn: dict[str, Figure]) -> list[str]:
    figure = curves_figure(record)
    if figure is None:
        return ["<p>No run has reported yet.</p>"]
    return [
        _place("curves", figure, drawn, "the leading metric by step"),
        '<p class="note">Runs stopped early are dashed, failed ones dotted.</p>',
    ]


def _pictures(pictures: Sequence[ComparedPhotos]) -> list[str]:
    if not pictures:
        return []
    names = [name for name, _ in pictures[0].pictures]
    photos = [(one.id, [_png_uri(picture) for _, picture in one.pictures]) for one in pictures]
    return [
        '<p class="note">Validation photos, sampled once by each model with the same noise.</p>',
        photos_table(names, photos),
    ]


def _png_uri(picture: Picture) -> str:
    """A picture as a URI that holds it; not as JPEG, which keeps a quarter of the colours."""
    return "data:image/png;base64," + base64.b64encode(png(Image.fromarray(picture))).decode()


def _csv(record: SweepRecord) -> str:
    """A row for each run, and one for a trial without."""
    keys = list(dict.fromkeys(key for trial in record.trials for key in trial.values))
    names = sorted({n for trial in record.trials for run in trial.runs for n in run.metrics})
    fields = ["replicate", "seed", "state", "attempts", "step", "seconds", "run_id"]
    fields += ["failure", "reason"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["place", "trial", "trial_state", *keys, *fields, *names])
    for place, trial in enumerate(record.ranked, 1):
        values = [trial.values.get(key) for key in keys]
        start = [place, trial.number, trial.state, *values]
        for run in trial.runs:
            own = [getattr(run, field) for field in fields]
            writer.writerow([*start, *own, *(run.metrics.get(name) for name in names)])
        if not trial.runs:
            writer.writerow([*start, *[None] * (len(fields) + len(names))])
    return out.getvalue()


def _document(record: SweepRecord) -> dict[str, Any]:
    told = {"format": FORMAT, "version": VERSION, "answer": answer(record)}
    found: dict[str, Any] = _json_ready({**told, **asdict(record)})
    return found


def _json_ready(value: Any) -> Any:
    """JSON has no inf and no nan; both become null, which no reader takes for a number."""
    if isinstance(value, Mapping):
        return {key: _json_ready(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _script_json(tree: Mapping[str, Any]) -> str:
    """JSON that no text in it can end: a page reads on at `</script>`."""
    return json.dumps(_json_ready(tree), separators=(",", ":"), default=str).replace("<", "\\u003c")


@lru_cache(maxsize=1)
def _plotly() -> str:
    """Plotly's script, packed: 1.9 MB instead of 4.8, and no code that speaks of keys and tokens:
    what a run logs has secrets taken out, and code would not run any more after that."""
    from plotly.offline import get_plotlyjs  # 0.5 s that only a report pays

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _own(name: str) -> str:
    return (files("tintlab.sweep") / "pages" / name).read_text()
