"""The end of a sweep: every run whole, with the status the ledger knows, the answer, the report."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tintlab.config import Workspace
from tintlab.errors import EnvironmentFault, TintlabError
from tintlab.sweep.answer import answer
from tintlab.sweep.comparison import compared_photos
from tintlab.sweep.html_report import write_report
from tintlab.sweep.ledger import Ledger
from tintlab.sweep.records import SweepRecord
from tintlab.tracking.reading import children, run_of
from tintlab.tracking.runs import Run, Status, set_final_status
from tintlab.tracking.sender import IDENTITY_TAG
from tintlab.tracking.sync import sync

PATIENCE_S = 120.0
"""How long processes that still send, and a slow store, are waited for."""

MLFLOW_STATUS: dict[str, Status] = {
    "complete": "FINISHED",
    "stopped": "KILLED",
    "running": "KILLED",
    "failed": "FAILED",
}


def settle(workspace: Workspace, ledger: Ledger, parent_run_id: str) -> None:
    """Send what the processes of runs left unsent, and correct what they could not say themselves.

    Tune does not wait for the process of the last run it stops, which may still be sending.

    Raises: EnvironmentFault: the store does not answer, or is too slow for all of it.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    runs = [(trial.number, run) for trial in ledger.record().trials for run in trial.runs]
    identities = {run.identity for _, run in runs}
    while sync(workspace, identities).still_open and time.monotonic() < deadline_s:
        time.sleep(0.2)
    stored = {
        child.tags.get(IDENTITY_TAG, ""): (child.run_id, child.status)
        for child in (children(workspace, parent_run_id) if parent_run_id else [])
    }
    for number, run in runs:
        run_id, status = stored.get(run.identity, (run.run_id, None))
        run_id = run_id or run_of(workspace, ledger.started.question.name, run.identity)
        if run_id and not run.run_id:
            ledger.found_run(number, run.replicate, run_id)
        if run_id and status != MLFLOW_STATUS[run.state]:
            set_final_status(workspace, run_id, MLFLOW_STATUS[run.state])
        if time.monotonic() > deadline_s:
            raise EnvironmentFault(f"the tracking store {workspace.tracking_uri} is slow")


def conclude(
    parent: Run, record: SweepRecord, workspace: Workspace, notice: Callable[[str], None]
) -> Path | None:
    """End the sweep's own run, with its answer, its best run, and its report as an artefact.

    Returns: where the report is; None if it could not be written, or the workspace is no folder
        and the report an artefact only.
    """
    best = record.best
    run = best.best_run(record.mode) if best else None
    if best and run and best.score is not None:
        parent.log_metrics({f"best/{record.metric.removeprefix('val/')}": best.score}, 0)
        parent.set_tags({"best_run_id": run.run_id or "", "best_trial": str(best.number)})
    parent.set_tags({"ended": record.ended or "", "answer": answer(record)})
    page = None
    try:
        if workspace.is_local:
            page = _report(parent, record, workspace, Path(workspace.reports) / record.name, notice)
        else:
            with TemporaryDirectory() as folder:
                _report(parent, record, workspace, Path(folder), notice)
    except OSError as error:
        notice(f"the report could not be written: {error.strerror}; everything else is kept")
    parent.close("FINISHED" if best else "FAILED")
    return page


def _report(
    parent: Run,
    record: SweepRecord,
    workspace: Workspace,
    folder: Path,
    notice: Callable[[str], None],
) -> Path:
    try:
        pictures = compared_photos(workspace, record, record.shards_uri, notice=notice)
    except TintlabError as error:
        notice(f"the report has no pictures: {error}")
        pictures = []
    folder.mkdir(parents=True, exist_ok=True)
    page = write_report(record, folder, pictures, workspace)
    for file in sorted(folder.iterdir()):
        parent.log_artifact(file, "report")
    return page
