"""What a sweep says: a line while it runs, then the ranked trials and the next commands."""

from dataclasses import asdict

from tintlab.console import Result, table
from tintlab.errors import TintlabError
from tintlab.sweep.ledger import Ledger, TrialRecord
from tintlab.sweep.question import Question

COLUMNS = ("val/bits_per_dim", "val/psnr_db", "val/ssim", "val/colorfulness_ratio")


def live_line(records: list[TrialRecord], num_trials: int) -> str:
    """One line of progress from the ranking."""
    counts = {state: sum(r.state == state for r in records) for state in ("complete", "stopped")}
    running = " ".join(f"#{r.number}@{r.step}" for r in records if r.state == "running")
    scored = [r for r in records if r.score is not None]
    best = f"best {scored[0].score:.4f} (#{scored[0].number})" if scored else "no score yet"
    return (
        f"{counts['complete']} complete, {counts['stopped']} stopped of {num_trials}; "
        f"{best}; running {running or '-'}"
    )


def result_of(ledger: Ledger, question: Question) -> Result:
    """The ranking of a finished sweep; exit code 4 if some trials failed.

    Raises: TintlabError: every trial failed.
    """
    ranked = ledger.ranked()
    if not any(record.state == "complete" for record in ranked):
        reason = next((r.reason for r in ranked if r.reason), "see their MLflow runs")
        raise TintlabError(f"no trial of sweep {ledger.name!r} completed: {reason}")
    best = ranked[0]
    data = {
        "sweep": ledger.name,
        "question": question.text,
        "metric": question.space.metric,
        "mode": question.space.mode,
        "best": asdict(best),
        "trials": [asdict(record) for record in ranked],
    }
    failures = [f"trial {r.number} failed: {r.reason}\n" for r in ranked if r.state == "failed"]
    text = (
        f"{question.text}\n\n{ranking(ranked)}\n\n{''.join(failures)}"
        f"best: trial {best.number}, {question.space.metric} {best.score:.4f}\n"
        f"next: tintlab {f'promote --run {best.run_id}' if best.run_id else 'track sync'}"
    )
    failed = any(record.state == "failed" for record in ranked)
    return Result(data, text, exit_code=4 if failed else 0)


def ranking(ranked: list[TrialRecord]) -> str:
    """The trials as a table, best first."""
    keys = list(dict.fromkeys(key for record in ranked for key in record.values))
    rows: list[list[object]] = []
    for place, record in enumerate(ranked, 1):
        searched = [_short(record.values.get(key, "")) for key in keys]
        measured: list[object] = [record.metrics.get(name, "") for name in COLUMNS]
        state = record.state if record.state != "stopped" else f"stopped at {record.step}"
        rows.append([place, f"#{record.number}", state, *searched, *measured])
    names = [name.removeprefix("val/") for name in COLUMNS]
    return table(["", "trial", "state", *keys, *names], rows)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
