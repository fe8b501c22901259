"""What is logged arrives in MLflow exactly once, and logging never waits for MLflow."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tintlab.config import ExperimentConfig, Workspace
from tintlab.errors import ConfigError, EnvironmentFault
from tintlab.tracking import runs
from tintlab.tracking.reading import children, metric_history, run_config, run_metrics, run_of
from tintlab.tracking.runs import open_run, set_final_status
from tintlab.tracking.spool import run_folder, spool_root
from tintlab.tracking.store import connect, ensure_store
from tintlab.tracking.sync import sync

# SQLAlchemy 2.1 deprecates a loader that MLflow 3.17 uses when its first store opens.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

SILENT_SERVER = "http://127.0.0.1:9"
"""Nothing listens on the discard port, so every request is refused at once."""

PANEL = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)


@pytest.fixture
def workspace(
    migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workspace]:
    """A workspace with its own tracking database, in a folder whose name has a space."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "SEND_EVERY_S", 0.05)
    root = tmp_path / "work space"
    root.mkdir()
    shutil.copy(migrated, root / "mlflow.db")
    yield Workspace.at(str(root))
    assert not (tmp_path / "mlruns").exists(), "MLflow wrote into the current folder"
    assert not (tmp_path / "mlflow.db").exists(), "MLflow wrote into the current folder"


class FailingClient(MlflowClient):
    """MLflow's client while its server is failing: every other call raises, `failures` times."""

    failures = 0
    after = False
    """Whether a failing call is done all the same and only its answer is lost."""
    calls = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            fails = self.calls % 2 == 0 and self.failures > 0
            self.failures -= fails
            if fails and not self.after:
                raise MlflowException("the server is away")
            answer = found(*args, **kwargs)
            if fails:
                raise MlflowException("the answer was lost")
            return answer

        return call


def die_while_tracking(workspace: Workspace, script: str) -> None:
    """Run `script` in a process whose store is down and which ends by SIGKILL."""
    code = f"""
        import os, signal
        import numpy as np
        from tintlab.config import Workspace
        from tintlab.tracking.runs import open_run
        workspace = Workspace.at({workspace.root!r})
        run = open_run(workspace, "lr", "trial 0", "lr/0", tags={{"group": "g"}})
    """
    code = textwrap.dedent(code) + textwrap.dedent(script)
    code += "\nos.kill(os.getpid(), signal.SIGKILL)\n"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": SILENT_SERVER}
    died = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert died.returncode == -signal.SIGKILL


def test_everything_logged_is_seen_through_mlflow(workspace: Workspace) -> None:
    parent = open_run(workspace, "lr", "sweep", "lr")
    config = ExperimentConfig()
    before_ms = time.time() * 1000
    run = open_run(
        workspace, "lr", "trial 0", "lr/0", parent="lr", tags={"group": "g", "seed": "3"}
    )
    run.log_config(config)
    for step in range(1500):  # more than MLflow takes at once
        run.log_metrics({"train/loss": 1 / (step + 1), "lr": 0.1}, step)
    run.log_image("val/panel", 7, PANEL)
    run.log_dataset("ab" * 32, "/data/shards", {"train": 8, "val": 1, "test": 2})
    run.log_environment()
    run.log_text("notes", "code/notes.txt")
    run.set_tags({"note": "x"})
    assert run.close("FINISHED", timeout_s=60.0)
    assert parent.close("FINISHED", timeout_s=60.0)

    client = connect(workspace)
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "trial 0"
    assert stored.info.artifact_uri.startswith(workspace.artifacts)
    assert stored.data.params == {key: str(value) for key, value in config.flat().items()}
    tags = stored.data.tags
    assert (tags["group"], tags["seed"], tags["note"]) == ("g", "3", "x")
    assert tags["mlflow.parentRunId"] == parent.run_id
    assert {"mlflow.source.name", "mlflow.user", "tintlab.identity"} <= tags.keys()

    history = metric_history(workspace, run.run_id, "train/loss")
    assert [(p.step, p.value) for p in history] == [(n, 1 / (n + 1)) for n in range(1500)]
    assert all(before_ms - 1 <= point.time_ms <= stored.info.end_time for point in history)

    (data,) = stored.inputs.dataset_inputs
    assert data.dataset.digest == ("ab" * 32)[:36]
    assert '"train": 8' in data.dataset.profile

    files = {file.path for file in client.list_artifacts(run.run_id)}
    assert {"config.json", "environment.txt", "code", "images"} <= files
    assert "mlflow==" in Path(
        client.download_artifacts(run.run_id, "environment.txt")
    ).read_text().replace("MLflow", "mlflow")
    assert run_config(workspace, run.run_id) == config
    assert run_metrics(workspace, run.run_id) == {"train/loss": 1 / 1500, "lr": 0.1}
    assert [child.run_id for child in children(workspace, parent.run_id)] == [run.run_id]
    assert not run_folder(workspace, "lr/0").exists(), "a delivered spool is removed"


def test_images_are_named_and_tagged_as_mlflow_itself_does(workspace: Workspace) -> None:
    run = open_run(workspace, "lr", "trial 0", "lr/0")
    run.log_image("val/panel", 7, PANEL)
    assert run.flush(60.0)
    client = connect(workspace)
    ours = image_names(client, run.run_id)
    assert client.get_run(run.run_id).data.tags["mlflow.loggedImages"] == "True"
    client.log_image(run.run_id, PANEL, key="val/panel", step=7)
    theirs = image_names(client, run.run_id) - ours
    run.close("FINISHED")

    def form(names: set[str]) -> set[str]:
        return {re.sub(r"[0-9a-f-]{36}", "ID", re.sub(r"stamp\+\d+", "stamp+N", n)) for n in names}

    assert form(ours) == form(theirs)
    (png,) = (name for name in ours if name.endswith(".png"))
    from PIL import Image

    with Image.open(client.download_artifacts(run.run_id, png)) as picture:
        assert np.array_equal(np.asarray(picture), PANEL)


def image_names(client: MlflowClient, run_id: str) -> set[str]:
    """The image artefacts of a run."""
    return {file.path for file in client.list_artifacts(run_id, "images")}


def test_the_same_identity_is_the_same_run(workspace: Workspace) -> None:
    ids = []
    for status in ("FAILED", "FINISHED"):
        run = open_run(workspace, "lr", "trial 0", "lr/it's 0")
        assert run.flush(60.0)
        assert connect(workspace).get_run(run.run_id).info.status == "RUNNING"
        ids.append(run.run_id)
        assert run.close(status)
    assert ids[0] == ids[1] == run_of(workspace, "lr", "lr/it's 0")
    assert connect(workspace).get_run(ids[0]).info.status == "FINISHED"
    assert run_of(workspace, "lr", "lr/1") is None


@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer lost"])
def test_a_failing_store_loses_and_repeats_nothing(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    after: bool,
) -> None:
    failing = FailingClient(workspace.tracking_uri, workspace.tracking_uri)
    failing.failures, failing.after = 12, after
    monkeypatch.setattr("tintlab.tracking.sender.connect", lambda _: failing)
    monkeypatch.setattr(runs, "RETRY_AT_MOST_S", 0.05)
    run = open_run(workspace, "lr", "trial 0", "lr/0", tags={"group": "g"})
    for step in range(40):
        run.log_metrics({"train/loss": 0.5, "nothing": float("nan")}, step)
        if step % 10 == 0:
            run.log_params({f"p{step}": step})
            run.log_image("val/panel", step, PANEL + np.uint8(step))
            time.sleep(0.05)  # so that sending happens in several parts
    assert run.close("FINISHED", timeout_s=60.0)
    assert failing.failures == 0, "the test did not fail as often as it meant to"

    client = connect(workspace)
    (only,) = client.search_runs([client.get_experiment_by_name("lr").experiment_id])
    assert [p.step for p in metric_history(workspace, run.run_id, "train/loss")] == list(range(40))
    assert [p.step for p in metric_history(workspace, run.run_id, "nothing")] == list(range(40))
    assert only.data.params == {f"p{step}": str(step) for step in (0, 10, 20, 30)}
    assert len(image_names(client, run.run_id)) == 8  # a png and its small copy, each once
    warned = [r for r in caplog.records if "does not answer" in r.message]
    assert len(warned) == 1


def test_a_dead_process_leaves_all_it_measured(workspace: Workspace) -> None:
    """And its torn last line, its run that nobody closed, its image: `sync` sends what is whole."""
    die_while_tracking(
        workspace,
        """
        run.log_params({"depth": 4})
        for step in range(2500):
            run.log_metrics({"train/loss": step / 7}, step)
        run.log_image("val/panel", 9, np.zeros((8, 8, 3), np.uint8))
        """,
    )
    (segment,) = run_folder(workspace, "lr/0").glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(b'deadbeef {"kind":"metr')
    done = sync(workspace)
    assert (done.runs, done.still_open) == (1, 0)
    run_id = run_of(workspace, "lr", "lr/0")
    assert run_id is not None
    history = metric_history(workspace, run_id, "train/loss")
    assert [(p.step, p.value) for p in history] == [(n, n / 7) for n in range(2500)]
    assert history[-1].time_ms > history[0].time_ms, "replayed with the time of measuring"
    client = connect(workspace)
    stored = client.get_run(run_id)
    assert (stored.info.status, stored.data.params) == ("FAILED", {"depth": "4"})
    assert len(image_names(client, run_id)) == 2
    assert sync(workspace).records == 0


def test_a_resumed_run_sends_what_was_left_and_repeats_no_point(workspace: Workspace) -> None:
    die_while_tracking(
        workspace,
        """
        for step in range(30):
            run.log_metrics({"train/loss": step / 7}, step)
        run.log_image("val/panel", 20, np.zeros((8, 8, 3), np.uint8))
        """,
    )
    run = open_run(workspace, "lr", "trial 0", "lr/0")
    for step in range(20, 40):  # from the checkpoint on, with the same result
        run.log_metrics({"train/loss": step / 7}, step)
    run.log_image("val/panel", 20, np.zeros((8, 8, 3), np.uint8))
    assert run.close("FINISHED")
    history = metric_history(workspace, run.run_id, "train/loss")
    assert [(p.step, p.value) for p in history] == [(n, n / 7) for n in range(40)]
    assert len(image_names(connect(workspace), run.run_id)) == 2


def test_sync_leaves_open_runs_alone_and_keeps_a_status_that_was_set(workspace: Workspace) -> None:
    run = open_run(workspace, "lr", "trial 1", "lr/1")
    set_final_status(workspace, run.run_id, "KILLED")
    assert sync(workspace).still_open == 1
    assert connect(workspace).get_run(run.run_id).info.status == "KILLED"
    run.close("KILLED")

    die_while_tracking(workspace, "run.log_metrics({'train/loss': 1.0}, 1)")
    sync(workspace)
    run_id = run_of(workspace, "lr", "lr/0")
    assert run_id is not None
    set_final_status(workspace, run_id, "KILLED")  # by the sweep, which knows better than sync
    assert sync(workspace).records == 0
    assert connect(workspace).get_run(run_id).info.status == "KILLED"


def test_a_damaged_record_costs_only_itself(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    die_while_tracking(
        workspace, "for step in range(10): run.log_metrics({'train/loss': 0.5}, step)"
    )
    (segment,) = run_folder(workspace, "lr/0").glob("*.jsonl")
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b'"step":4', b'"step":5'))
    sync(workspace)
    run_id = run_of(workspace, "lr", "lr/0")
    assert run_id is not None
    history = metric_history(workspace, run_id, "train/loss")
    assert [p.step for p in history] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert any("damaged record" in record.message for record in caplog.records)


def test_what_mlflow_refuses_is_named_and_stops_nothing_else(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    run = open_run(workspace, "lr", "trial 0", "lr/0")
    run.log_params({"depth": 4})
    run.log_params({"width": 64, "depth": 5, "heads": 8})
    run.log_metrics({"ok": 1.0, "bad*name": 2.0, "fine": 3.0}, 1)
    assert run.close("FINISHED")
    stored = connect(workspace).get_run(run.run_id).data
    assert stored.params == {"depth": "4", "width": "64", "heads": "8"}
    assert stored.metrics == {"ok": 1.0, "fine": 3.0}
    refused = [r.message for r in caplog.records if r.message.startswith("MLflow refused")]
    assert len(refused) == 2
    assert "refused depth: Changing param values" in refused[0]
    assert "refused bad*name" in refused[1]


def test_logging_does_not_wait_for_a_store_that_hangs(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def hang(_: Workspace) -> MlflowClient:
        time.sleep(3)
        raise OSError("no answer")

    with monkeypatch.context() as away:
        away.setattr("tintlab.tracking.sender.connect", hang)
        away.setattr(runs, "RUN_ID_TIMEOUT_S", 0.1)
        started = time.perf_counter()
        run = open_run(workspace, "lr", "trial 0", "lr/0")
        assert run.run_id == ""
        for step in range(1000):
            run.log_metrics({"train/loss": 0.5}, step)
        assert not run.close("FINISHED", timeout_s=0.1)
        assert time.perf_counter() - started < 1.5
        assert any("tintlab track sync" in record.message for record in caplog.records)
    assert run.close("FINISHED", timeout_s=60.0)  # sending goes on while the process lives
    assert len(metric_history(workspace, run.run_id, "train/loss")) == 1000


def test_a_full_disk_delays_records_and_loses_none(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = open_run(workspace, "lr", "trial 0", "lr/0")
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 40 and not full.cut:  # type: ignore[attr-defined]
            full.cut = True  # type: ignore[attr-defined]
            return real(descriptor, data[:17])  # the disk is full in the middle of a line
        raise OSError(errno.ENOSPC, "No space left on device")

    full.cut = False  # type: ignore[attr-defined]
    with monkeypatch.context() as filled:
        filled.setattr("tintlab.tracking.spool.os.write", full)
        for step in range(20):
            run.log_metrics({"train/loss": 0.5}, step)
    assert run.close("FINISHED")
    assert len(metric_history(workspace, run.run_id, "train/loss")) == 20
    assert sum("No space left" in record.message for record in caplog.records) == 1


def test_two_processes_that_open_a_new_store_migrate_it_once(tmp_path: Path) -> None:
    code = f"""if True:
        from tintlab.config import Workspace
        from tintlab.tracking.store import connect, ensure_store
        workspace = Workspace.at({str(tmp_path)!r})
        ensure_store(workspace)
        print(len(connect(workspace).search_experiments()))
    """
    environment = {key: v for key, v in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err) == (0, "1\n", "")


def test_a_database_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database" * 100)
    with pytest.raises(EnvironmentFault, match=r"cannot open the tracking database sqlite:///"):
        ensure_store(Workspace.at(str(tmp_path)))


def test_unknown_runs_are_refused_in_one_line(workspace: Workspace) -> None:
    for read in (run_config, run_metrics, children):
        with pytest.raises(ConfigError, match=r"^no run nope in sqlite:///.*mlflow\.db"):
            read(workspace, "nope")
    run = open_run(workspace, "lr", "trial 0", "lr/0")
    with pytest.raises(ConfigError, match=r"has logged no config\.json; give a run that"):
        run_config(workspace, run.run_id)
    assert metric_history(workspace, run.run_id, "none") == []
    run.close("FINISHED")


def test_a_store_that_does_not_answer_is_named(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SILENT_SERVER)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ensure_store(workspace)  # a training starts all the same
    with pytest.raises(EnvironmentFault, match=r"store http://127\.0\.0\.1:9 does not answer"):
        run_metrics(workspace, "0" * 32)


def test_a_workspace_elsewhere_is_spooled_here_and_needs_a_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    remote = Workspace.at("s3://bucket/tintlab")
    assert spool_root(remote).is_absolute()
    with pytest.raises(EnvironmentFault, match="set MLFLOW_TRACKING_URI to a tracking server"):
        connect(remote)


def test_the_track_command_sends_what_a_dead_process_left(workspace, capsys):
    from pipelines.__main__ import main

    code = (
        "import os, sys; from tintlab.config import Workspace\n"
        "from tintlab.tracking.runs import open_run\n"
        "run = open_run(Workspace(root=sys.argv[1]), 'e', 'n', 'dead/1')\n"
        "assert run.flush(60)\n"
        "run.log_metrics({'val/x': 1.5}, 7)\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, workspace.root], check=False, timeout=120)
    where = ["--workspace", workspace.root]
    assert main(["track", "sync", "--dry-run", *where]) == 0
    assert "1 runs have something unsent" in capsys.readouterr().out
    assert main(["track", "sync", *where]) == 0
    assert "of 1 runs sent" in capsys.readouterr().out
    assert main(["track", "sync", "--dry-run", *where]) == 0
    assert "0 runs have" in capsys.readouterr().out
