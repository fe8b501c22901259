"""The tables of a sweep's report: ranking, failures, cost, lineage, commands."""

from collections.abc import Sequence

from tintlab.config import ExperimentConfig, Workspace
from tintlab.html_page import pairs, text
from tintlab.sweep.answer import (
    completed,
    counted,
    described,
    is_reference,
    pareto_front,
    score_interval,
    searched,
    shown,
)
from tintlab.sweep.axes import label
from tintlab.sweep.commands import again, next_commands
from tintlab.sweep.failures import failures
from tintlab.sweep.importance import are_numbers
from tintlab.sweep.records import RunRecord, SweepRecord, TrialRecord

USUAL_METRICS = ("val/bits_per_dim", "val/psnr_db", "val/ssim", "val/colorfulness_ratio")
"""Shown beside the objectives where they are reported."""

LOCAL_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens unless it is told otherwise."""

EXAMPLES = 10
"""Failed runs of a class that are shown one by one; trials.csv has all."""

SECONDS_PER_MINUTE, SECONDS_PER_HOUR = 60, 3600


def headline(record: SweepRecord) -> str:
    """What the sweep is and how far it got, in one line."""
    counts = {state: 0 for state in ("complete", "stopped", "running", "failed")}
    for trial in record.trials:
        counts[trial.state] += 1
    words = {"stopped": "stopped early", "running": "unfinished"}
    told = ", ".join(f"{n} {words.get(state, state)}" for state, n in counts.items() if n)
    seeds = f" with {counted(record.replicates, 'seed')} each" if record.replicates > 1 else ""
    ended = f"ended: {record.ended}" if record.ended else "not at its end"
    return (
        f"Sweep <b>{text(record.name)}</b> of <code>{text(record.space)}</code>, "
        f"{counted(record.num_trials, 'configuration')}{seeds}: {told or 'none begun'}; "
        f"{text(ended)}."
    )


def shown_metrics(record: SweepRecord) -> list[str]:
    """The metrics that a table has room for: objectives, then the usual ones, then LPIPS."""
    reported = {name for trial in record.trials for run in trial.runs for name in run.metrics}
    lpips = sorted(name for name in reported if name.startswith("val/lpips"))
    wanted = dict.fromkeys([record.metric, *record.objectives, *USUAL_METRICS, *lpips])
    return [name for name in wanted if name == record.metric or name in reported]


def ranking_table(record: SweepRecord, ui: str) -> str:
    """Every configuration, best first; stopped, unfinished and failed ones after the complete."""
    keys, others = searched(record.trials), shown_metrics(record)[1:]
    front = {trial.number for trial in pareto_front(record)} if len(record.objectives) > 1 else ()
    best = next(iter(completed(record)), None)
    seeds = record.replicates > 1
    heads = ["", "trial", "state", *map(_breakable, keys), label(record.metric)]
    heads += ["±&nbsp;95&nbsp;%", "spread (sd)"] if seeds else []
    heads += [*map(label, others), "training, s", "runs"]
    rows = []
    for place, trial in enumerate(record.ranked, 1):
        interval = score_interval(trial)
        state = f"{trial.state} at {trial.step}" if trial.state == "stopped" else trial.state
        state += ", Pareto" if trial.number in front else ""
        if trial.state == "complete" and len(trial.complete) != record.replicates:
            state += f", {counted(len(trial.complete), 'seed')}"
        cells = [_cell(place), _cell(trial.number), _cell(state)]
        cells += [_cell(trial.values.get(key)) for key in keys]
        cells.append(_cell(trial.score, "{:.4f}"))
        if seeds:
            half = interval.high - interval.mean if interval else None
            cells += [_cell(half, "{:.4f}"), _cell(trial.spread, "{:.4f}")]
        cells += [_cell(trial.mean(name), "{:#.4g}") for name in others]
        cells.append(_cell(trial.seconds, "{:.0f}"))
        cells.append(f"<td>{' '.join(_link(run, ui) for run in trial.runs)}</td>")
        rows.append(f'<tr class="{_kind(record, trial, best)}">{"".join(cells)}</tr>')
    # A heading stands over its column: numbers to the right, and all but these are numbers.
    words = {"state", "runs", *(_breakable(key) for key in keys if not _is_number(record, key))}
    head = "".join(
        f"<th>{name}</th>" if name in words else f'<th class="n">{name}</th>' for name in heads
    )
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def photos_table(names: Sequence[str], photos: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The same photos as each model paints them.

    Args: names: of the columns. photos: the id of each, and a URI that holds each of its pictures.
    """
    head = "".join(f"<th>{text(name)}</th>" for name in names)
    rows = []
    for photo, uris in photos:
        told = [text(f"{name}, photo {photo}") for name in names]
        cells = [f'<td><img src="{u}" alt="{t}"></td>' for u, t in zip(uris, told, strict=True)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="photos"><tr>{head}</tr>{"".join(rows)}</table>'


def failures_part(record: SweepRecord, ui: str) -> list[str]:
    """Failed runs by class, with what their configurations have in common."""
    groups = failures(record)
    if not groups:
        return ["<p>Nothing failed.</p>"]
    parts = []
    for group in groups:
        trials = len({trial.number for trial, _ in group.runs})
        parts.append(
            f"<h3><code>{text(group.failure)}</code>: {counted(len(group.runs), 'run')} of "
            f"{counted(trials, 'configuration')}</h3>"
        )
        if group.shared:
            parts.append(f"<p>All {trials} have in common what few others have:</p><ul>")
            for one in group.shared:
                few = f"{one.others_with} of the {one.others} others"
                parts.append(f"<li><code>{text(one.key)}</code> {text(one.what)} ({few})</li>")
            parts.append("</ul>")
        rows = [
            f"<tr><td>trial {trial.number}, seed {run.seed}</td><td>step {run.step}</td>"
            f"<td>{counted(run.attempts, 'attempt')}</td><td>{text(run.reason or 'no reason')}</td>"
            f"<td>{text(described(trial.values))}</td><td>{_link(run, ui)}</td></tr>"
            for trial, run in group.runs[:EXAMPLES]
        ]
        parts.append(f"<table>{''.join(rows)}</table>")
        if len(group.runs) > EXAMPLES:
            more = len(group.runs) - EXAMPLES
            parts.append(f"<p>And {more} more, in <code>trials.csv</code>.</p>")
    return parts


def cost_table(record: SweepRecord) -> str:
    """Time by what became of it."""
    rows = []
    for state, name in (
        ("complete", "complete"),
        ("stopped", "stopped early"),
        ("running", "unfinished"),
        ("failed", "failed"),
    ):
        trials = [trial for trial in record.trials if trial.state == state]
        if trials:
            rows.append(_cost_row(name, trials))
    rows.append(_cost_row("all", record.trials))
    head = "".join(
        f'<th class="n">{name}</th>'
        for name in ("", "configurations", "runs", "training", "per configuration", "steps")
    )
    return (
        f"<table><tr>{head}</tr>{''.join(rows)}</table>"
        f"<p>The sweep itself ran for {_duration(record.wall_s)}.</p>"
    )


def lineage_part(record: SweepRecord) -> str:
    """What the figures were made from."""
    code = [(f"code: {name}", f"<code>{text(value)}</code>") for name, value in record.code.items()]
    rows = [
        ("data fingerprint", f"<code>{text(record.data_fingerprint)}</code>"),
        ("Lab shards", f"<code>{text(record.shards_uri)}</code>"),
        *code,
        ("seed of the search", text(record.seed)),
        ("seeds for each configuration", text(record.replicates)),
        ("searched", ", ".join(f"<code>{text(key)}</code>" for key in record.searched)),
    ]
    if record.overrides:
        accepted = "<br>".join(map(text, record.overrides))
        rows.append(("accepted when it was continued", accepted))
    default = ExperimentConfig().flat()
    changed = {key: v for key, v in record.base.items() if default.get(key) != v}
    base = pairs((key, f"<code>{text(shown(v))}</code>") for key, v in record.base.items())
    if changed:
        rows.append(("settings that differ from the defaults", text(described(changed))))
    return (
        f'<div class="facts">{pairs(rows)}</div><details><summary>All settings before anything is '
        f"searched ({len(record.base)})</summary>{base}</details>"
    )


def commands_part(record: SweepRecord, workspace: Workspace | None) -> list[str]:
    """What to type next, and how to train each complete run once more."""
    parts = []
    for purpose, command in next_commands(record, workspace):
        parts.append(f"<p>{text(purpose[0].upper() + purpose[1:])}:</p><pre>{text(command)}</pre>")
    reruns = []
    for trial in record.ranked:
        for run in trial.runs:
            rerun = again(record, trial, run, workspace)
            if rerun:
                reruns.append(f"# trial {trial.number}, seed {run.seed}\n{rerun}")
    if reruns:
        first, *rest = reruns
        parts.append(
            "<p>Train a run again, with its settings and seed, as a run of its own:</p>"
            f"<pre>{text(first)}</pre>"
        )
        if rest:
            lines = text("\n".join(rest))
            parts.append(
                f"<details><summary>The other {counted(len(rest), 'run')}</summary>"
                f"<pre>{lines}</pre></details>"
            )
    return parts or ["<p>None before a run is known to the tracking store.</p>"]


def _cost_row(name: str, trials: Sequence[TrialRecord]) -> str:
    seconds = sum((trial.seconds for trial in trials), 0.0)
    runs = [run for trial in trials for run in trial.runs]
    cells: list[object] = [
        len(trials),
        len(runs),
        _duration(seconds),
        _duration(seconds / len(trials)) if trials else "",
        f"{sum(run.step for run in runs):,}",
    ]
    figures = "".join(f'<td class="n">{cell}</td>' for cell in cells)
    return f"<tr><td>{name}</td>{figures}</tr>"


def _duration(seconds: float) -> str:
    if seconds < 2 * SECONDS_PER_MINUTE:
        return f"{seconds:.1f} s"
    if seconds < 2 * SECONDS_PER_HOUR:
        return f"{seconds / SECONDS_PER_MINUTE:.1f} min"
    return f"{seconds / SECONDS_PER_HOUR:,.2f} h"


def _cell(value: object, form: str | None = None) -> str:
    """A cell that sorts by its whole value, and shows a number to the right."""
    if value is None:
        return "<td></td>"
    told = form.format(value) if form else shown(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="n" data-value="{value!r}">{text(told)}</td>'
    return f"<td>{text(told)}</td>"


def _is_number(record: SweepRecord, key: str) -> bool:
    return are_numbers([trial.values[key] for trial in record.trials if key in trial.values])


def _kind(record: SweepRecord, trial: TrialRecord, best: TrialRecord | None) -> str:
    if trial is best:
        return "best"
    if trial.state == "complete":
        return "reference" if is_reference(record, trial) else "complete"
    return trial.state


def _link(run: RunRecord, ui: str) -> str:
    if run.run_id is None:
        return "not sent yet"
    place, whole = text(f"{ui}/#/runs/{run.run_id}"), text(run.run_id)
    return f'<a href="{place}" target="_blank" rel="noopener" title="{whole}">{whole[:6]}</a>'


def _breakable(key: str) -> str:
    """A dotted key that a narrow column can break after the dot."""
    return text(key).replace(".", ".<wbr>")
