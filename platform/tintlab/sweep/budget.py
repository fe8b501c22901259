"""What ends a sweep before all of its trials are done."""

from collections.abc import Sequence

from tintlab.settings import SweepConfig
from tintlab.sweep.records import SweepRecord, TrialRecord


def gpu_seconds(record: SweepRecord) -> float:
    """Seconds of GPUs that the runs have taken together."""
    gpus = record.base["training.gpus_per_worker"] * record.base["training.workers"]
    return sum(trial.seconds for trial in record.trials) * float(gpus)


def budget_reached(settings: SweepConfig, record: SweepRecord) -> str | None:
    """Which limit the sweep has come to, on one line; None if it may go on."""
    if settings.hours is not None and record.wall_s >= settings.hours * 3600:
        return f"sweep.hours={settings.hours:g} are over"
    if settings.gpu_hours is not None and gpu_seconds(record) >= settings.gpu_hours * 3600:
        return f"sweep.gpu_hours={settings.gpu_hours:g} are used up"
    ended = [trial for trial in record.trials if trial.state != "running"]
    looks_for_better = settings.target is not None or settings.patience_trials is not None
    if looks_for_better and (reached := _no_better_needed(settings, record, ended)):
        return reached
    failed = sum(trial.state == "failed" for trial in ended)
    if failed > settings.failed_share * record.num_trials:
        return (
            f"{failed} of {record.num_trials} trials failed, more than "
            f"sweep.failed_share={settings.failed_share:g}"
        )
    return None


def _no_better_needed(
    settings: SweepConfig, record: SweepRecord, ended: Sequence[TrialRecord]
) -> str | None:
    best, sign = record.best, 1.0 if record.mode == "min" else -1.0
    if best is None or best.score is None:
        return None
    if settings.target is not None and sign * best.score <= sign * settings.target:
        return (
            f"sweep.target={settings.target:g} is reached: trial {best.number} has {best.score:.4f}"
        )
    since = sum(trial.number > best.number for trial in ended)
    if settings.patience_trials is not None and since >= settings.patience_trials:
        return (
            f"sweep.patience_trials={settings.patience_trials}: none was better than trial "
            f"{best.number}"
        )
    return None
