"""What to type next: promote the winner, run any trial again, go on, look closer."""

import shlex

from tintlab.config import Workspace
from tintlab.redaction import redacted
from tintlab.sweep.records import RunRecord, SweepRecord, TrialRecord


def next_commands(record: SweepRecord, workspace: Workspace | None = None) -> list[tuple[str, str]]:
    """What each command is for, and the command; those that the state of the sweep allows.

    Args: workspace: where the sweep is kept; None: where the commands will look by themselves.
    """
    place = options(record, workspace)
    best = record.best.best_run(record.mode) if record.best else None
    found = []
    if best and best.run_id:
        found.append(
            (
                "make the best run @champion, if the test split agrees",
                f"tintlab promote --run {best.run_id}{place}",
            )
        )
        found.append(("measure it on the test split", f"tintlab evaluate {best.run_id}{place}"))
    if record.ended is None:
        at = workspace_option(workspace)
        if record.storage:
            at += f" --sweep.storage {shlex.quote(redacted(record.storage))}"
        found.append(("go on", f"tintlab sweep --resume {shlex.quote(record.name)}{at}"))
    elif any(run.run_id is None for trial in record.trials for run in trial.runs):
        at = workspace_option(workspace)
        found.append(("send what the tracking store lacks", f"tintlab track sync{at}"))
    if workspace and "://" in workspace.tracking_uri:
        uri = redacted(workspace.tracking_uri)
        if not uri.startswith("http"):
            found.append(("open the runs", f"mlflow ui --backend-store-uri {shlex.quote(uri)}"))
    return found


def again(
    record: SweepRecord, trial: TrialRecord, run: RunRecord, workspace: Workspace | None = None
) -> str | None:
    """The command that trains a run once more, with its settings and seed, as a run of its own."""
    if run.run_id is None:
        return None
    name = shlex.quote(f"{record.name}-{trial.number}-{run.replicate}-again")
    place = options(record, workspace)
    return f"tintlab train --from-run {run.run_id} --name {name}{place}"


def options(record: SweepRecord, workspace: Workspace | None) -> str:
    """Where the shards and the runs are, as options; the ones that are needed."""
    own = workspace is not None and record.shards_uri == workspace.shards
    shards = "" if own else f" --shards {shlex.quote(redacted(record.shards_uri))}"
    return f"{shards}{workspace_option(workspace)}"


def workspace_option(workspace: Workspace | None) -> str:
    """The option that names the workspace, unless it is the one that is taken anyway."""
    if workspace is None or workspace == Workspace.at():
        return ""
    return f" --workspace {shlex.quote(redacted(workspace.root))}"
