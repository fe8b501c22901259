"""What a sweep prints at its end: the answer, the ranking, failures, and what to type next."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tintlab.config import Workspace
from tintlab.console import Result, table
from tintlab.errors import BudgetReached, TintlabError
from tintlab.sweep.answer import answer, pareto_front, score_interval, searched, shown
from tintlab.sweep.commands import again, next_commands
from tintlab.sweep.failures import failures
from tintlab.sweep.records import SweepRecord, TrialRecord
from tintlab.sweep.report_sections import shown_metrics

ROWS = 40
"""Of the table; the report and the JSON document have all."""


def result_of(
    record: SweepRecord, report: Path | None, workspace: Workspace | None = None
) -> Result:
    """What a sweep found; exit code 8 if a budget ended it before its last trial, else 4 if some of
    its trials failed.

    Args: report: where the page is. workspace: where the sweep is kept, for the commands.
    Raises: BudgetReached: it ended the sweep before any trial was trained to the end.
        TintlabError: none was, and none is left to train.
    """
    best = record.best
    over = sum(trial.state != "running" for trial in record.trials)
    ended_early = record.ended is not None and over < record.num_trials
    data: dict[str, Any] = {
        "sweep": record.name,
        "question": record.question,
        "answer": answer(record),
        "metric": record.metric,
        "mode": record.mode,
        "objectives": record.objectives,
        "pareto": [trial.number for trial in pareto_front(record)],
        "best": _plain(record, best) if best else None,
        "trials": [_plain(record, trial) for trial in record.ranked],
        "ended": record.ended,
        "overrides": list(record.overrides),
        "report": str(report) if report else None,
    }
    parts = [f"{record.question}\n{answer(record)}", ranking(record), *_failed(record)]
    if ended_early:
        parts.append(f"ended: {record.ended}")
    if report:
        parts.append(f"report: {report}")
    commands = [
        f"{purpose}:\n    {command}" for purpose, command in next_commands(record, workspace)
    ]
    run = best.best_run(record.mode) if best else None
    if best and run:
        rerun = again(record, best, run, workspace)
        commands += [f"train it once more:\n    {rerun}"] if rerun else []
    parts.append("\n".join(commands))
    text = "\n\n".join(filter(None, parts))
    if best is None and record.ended is not None:
        reason = next((f": {trial.reason}" for trial in record.trials if trial.reason), "")
        why = f"{record.ended}, and no trial" if ended_early else "no trial"
        kind = BudgetReached if ended_early else TintlabError
        raise kind(f"{why} of sweep {record.name!r} completed{reason}", data, text)
    failed = any(trial.state == "failed" for trial in record.trials)
    code = 8 if ended_early else 4 if failed else 0
    return Result(data, text, exit_code=code)


def ranking(record: SweepRecord) -> str:
    """The trials as a table, best first, with intervals where there are several seeds."""
    keys, metrics = searched(record.trials), shown_metrics(record)
    seeds = record.replicates > 1
    rows: list[list[object]] = []
    ranked = record.ranked
    for place, trial in enumerate(ranked[:ROWS], 1):
        state = trial.state if trial.state != "stopped" else f"stopped at {trial.step}"
        row: list[object] = [place, f"#{trial.number}", state]
        row += [shown(trial.values.get(key, "")) for key in keys]
        row.append(_or_nothing(trial.score))
        if seeds:
            interval = score_interval(trial)
            row.append(f"±{interval.high - interval.mean:.4f}" if interval else "")
            row.append(len(trial.complete))
        rows.append(row + [_or_nothing(trial.mean(name)) for name in metrics[1:]])
    names = [name.removeprefix("val/") for name in metrics]
    over_seeds = ["95 %", "seeds"] if seeds else []
    grid = table(["", "trial", "state", *keys, names[0], *over_seeds, *names[1:]], rows)
    more = len(ranked) - len(rows)
    return f"{grid}\nand {more} more, in the report" if more else grid


def _failed(record: SweepRecord) -> list[str]:
    parts = []
    for group in failures(record):
        lines = [
            f"trial {trial.number}, seed {run.seed}, failed ({group.failure}): {run.reason}"
            for trial, run in group.runs
        ]
        for one in group.shared:
            lines.append(
                f"  all of them: {one.key} {one.what}, as {one.others_with} of {one.others} others"
            )
        parts.append("\n".join(lines))
    return parts


def _plain(record: SweepRecord, trial: TrialRecord) -> dict[str, Any]:
    interval = score_interval(trial)
    run = trial.best_run(record.mode) or next(iter(trial.runs), None)
    return {
        "number": trial.number,
        "state": trial.state,
        "values": trial.values,
        "score": trial.score,
        "spread": trial.spread,
        "interval": [interval.low, interval.high] if interval else None,
        "run_id": run.run_id if run else None,
        "step": trial.step,
        "seconds": trial.seconds,
        "metrics": {name: trial.mean(name) for name in sorted(run.metrics)} if run else {},
        "attempts": sum(one.attempts for one in trial.runs),
        "reason": trial.reason,
        "runs": [asdict(one) for one in trial.runs],
    }


def _or_nothing(value: float | None) -> object:
    return "" if value is None else value
