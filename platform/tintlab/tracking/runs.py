"""Runs: what a training logs, without ever waiting for the tracking store.

A call appends to the spool (`spool.py`) and returns; a daemon thread replays the spool to MLflow
(`sender.py`). A store that is down, slow or refuses costs one warning and no training step.
"""

import io
import logging
import os
import shutil
import threading
import time
import uuid
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tintlab.config import ExperimentConfig, Workspace, to_json
from tintlab.errors import ConfigError, refuse_secrets
from tintlab.redaction import holds_secret, redacted, redacted_tree
from tintlab.tracking import provenance
from tintlab.tracking.locks import locked
from tintlab.tracking.sender import Sender
from tintlab.tracking.spool import (
    TROUBLE,
    Record,
    Segment,
    now_ms,
    read_records,
    remove_if_delivered,
    run_folder,
    run_lock,
    spool_root,
)
from tintlab.tracking.store import asking, first_line
from tintlab.tracking.system_metrics import PREFIX, SystemMetrics

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "KILLED", "FAILED"]

SEND_EVERY_S = 1.0
"""How old a metric may get before it is sent; longer makes fuller batches."""

RETRY_AT_MOST_S = 10.0
"""Longest pause between tries while the store is down; they start at SEND_EVERY_S and double."""

RUN_ID_TIMEOUT_S = 30.0
"""How long the store may take to answer first; migrating one on a slow machine takes about 10 s."""

AWAY_TIMEOUT_S = 10.0
"""How long the end of a run waits for a store that has not answered lately."""

AWAY_AFTER_FAILURES = 2
"""Tries in a row that got nothing to the store, after which it is taken to be away."""

TEXT = {".json", ".txt", ".md", ".yaml", ".yml", ".csv", ".html", ".diff", ".log", ".toml", ".py"}
"""Endings of artefacts that are read for secrets; others hold pixels or weights."""


def open_run(
    workspace: Workspace,
    experiment: str,
    name: str,
    identity: str,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> "Run":
    """The run with this identity, RUNNING: found again if it exists, created if not.

    What an earlier process left in the spool of this run is sent first.

    Args: parent: identity of the sweep's run; tags: such as `group` and `seed`, by which the UI
        groups.
    Raises: ConfigError: MLflow's search could not find such an identity again, or it is a secret.
    """
    refuse_secrets({"a run's experiment": experiment, "its name": name, "its identity": identity})
    if "'" in identity and '"' in identity:
        raise ConfigError(f"a run's identity cannot hold both ' and \", got {identity}; drop one")
    if not workspace.is_local:
        root = redacted(workspace.root)
        logger.warning("runs in %s are spooled in %s", root, spool_root(workspace))
    header = {
        "kind": "open",
        "experiment": experiment,
        "name": name,
        "identity": identity,
        "parent": parent,
        "tags": provenance.source_tags() | dict(tags or {}),
        "time_ms": now_ms(),
    }
    return Run(workspace, run_folder(workspace, identity), redacted_tree(header))


class Run:
    """One open run; its methods are cheap and may be called from any thread."""

    def __init__(self, workspace: Workspace, folder: Path, header: Record) -> None:
        with locked(run_lock(folder)):
            self._logged = _already_logged(folder)
            self._earlier = Segment.left_behind(folder)
            self._segment = Segment.new(folder)
        (folder / TROUBLE).unlink(missing_ok=True)
        self._folder = folder
        self._opened_s = time.monotonic()
        self._failures = 0  # since something was last sent
        self._system_metrics: SystemMetrics | None = None
        self._sender = Sender(workspace, folder, header)
        self._segment.append(header)
        self._closed: Status | None = None
        self._files = 0
        self._warned = False
        self._asked_for_id = False
        self._wake = threading.Event()
        self._sent = threading.Condition()
        self._wake.set()  # create the run at once
        self._thread = threading.Thread(
            target=self._keep_sending, name="tintlab-tracking", daemon=True
        )
        self._thread.start()

    @property
    def run_id(self) -> str:
        """The run's id in MLflow; waits for the store's first answer, and is empty without one."""
        if not self._asked_for_id:
            self._asked_for_id = True
            self._sender.known.wait(RUN_ID_TIMEOUT_S)
        return self._sender.run_id

    @property
    def run_id_so_far(self) -> str:
        """The run's id in MLflow, empty as long as it is not known; never waits."""
        return self._sender.run_id

    @property
    def goes_on(self) -> bool:
        """Whether an earlier process logged to this run, and what it logged is known here."""
        return bool(self._logged)

    def log_system_metrics(self) -> None:
        """Log what this machine does, every few seconds until the run is closed."""
        if self._system_metrics is None:
            steps = [step for key, step, _ in self._logged if key.startswith(PREFIX)]
            self._system_metrics = SystemMetrics(self.log_metrics, max(steps, default=-1) + 1)

    def log_config(self, config: ExperimentConfig) -> None:
        """The whole experiment: its flat form as params, and `config.json`, which rebuilds it."""
        self.log_params(config.flat())
        self.log_text(to_json(config), "config.json")

    def log_params(self, params: Mapping[str, str | int | float | bool]) -> None:
        """Log params; MLflow keeps the first value of each for good."""
        self._append("params", values={key: str(value) for key, value in params.items()})

    def log_metrics(self, metrics: Mapping[str, int | float], step: int) -> None:
        """Log metrics at an optimizer step; a point the run already has is not logged again."""
        values = {key: float(value) for key, value in metrics.items()}
        if self._logged:  # a resumed training repeats the steps since its checkpoint
            values = {k: v for k, v in values.items() if (k, step, v) not in self._logged}
        if values:
            self._append("metrics", time_ms=now_ms(), step=step, values=values)

    def log_image(self, key: str, step: int, rgb: UInt8[np.ndarray, "H W 3"]) -> None:
        """Log a picture that the UI shows by step; the key may hold letters, digits and _-./ ."""
        checksum = zlib.crc32(rgb.tobytes())
        if (key, step, checksum) in self._logged:
            return
        # The name `MlflowClient.log_image` gives (mlflow 3.17 tracking/client.py:3333), but with an
        # id fixed here, so that sending it again replaces it; theirs is random and would add one.
        fixed = uuid.uuid5(uuid.NAMESPACE_URL, f"{self._segment.path}/{self._files}")
        name = f"{key.replace('/', '~')}+step+{step}+timestamp+{now_ms()}+{fixed}.png"
        path = self._new_file(name)
        png = io.BytesIO()
        Image.fromarray(rgb).save(png, "png", compress_level=1)  # speed matters here, size does not
        _write(path, png.getvalue())
        seen = {"key": key, "step": step, "crc": checksum}
        self._append_file(path, "images", image=seen)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file under its own name; it must not be changed in place from now on.

        A text with secrets in it is logged without them.

        Raises: FileNotFoundError: there is no such file.
        """
        if path.suffix in TEXT:
            text = path.read_text(errors="replace")
            if holds_secret(text):
                self.log_text(text, f"{folder}/{path.name}" if folder else path.name)
                return
        target = self._new_file(path.name)
        try:
            os.link(path, target)  # no second copy of a model on the disk
        except OSError:  # another file system
            shutil.copyfile(path, target)
        self._append_file(target, folder, image=None)

    def log_text(self, text: str, file: str) -> None:
        """Log a text as the artefact `file`, such as `code/uncommitted.diff`."""
        folder, _, name = file.rpartition("/")
        path = self._new_file(name)
        _write(path, redacted(text).encode())
        self._append_file(path, folder or None, image=None)

    def log_dataset(self, fingerprint: str, uri: str, counts: Mapping[str, int]) -> None:
        """Log the photos used as the run's input: fingerprint, place, and photos per split."""
        self._append("dataset", fingerprint=fingerprint, uri=uri, counts=dict(counts))

    def log_environment(self) -> None:
        """Log the installed packages and the code's uncommitted changes."""
        self.log_text(provenance.environment(), "environment.txt")
        diff = provenance.uncommitted_diff()
        if diff:
            self.log_text(diff, "uncommitted.diff")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; the last value of each counts."""
        self._append("tags", values=dict(tags))

    def flush(self, timeout_s: float) -> bool:
        """Wait until the store has everything logged so far; False if it has not by then."""
        target = self._segment.end
        self._wake.set()
        with self._sent:
            return self._sent.wait_for(lambda: self._segment.acknowledged >= target, timeout_s)

    def close(self, status: Status, timeout_s: float = 60.0) -> bool:
        """End the run; False, with one warning, if the store has not everything by `timeout_s`.

        A store that is away is waited for AWAY_TIMEOUT_S at most. Sending goes on while the process
        lives; the rest stays for `tintlab track sync`. Closing twice changes nothing.
        """
        if self._closed is None:
            if self._system_metrics:
                self._system_metrics.stop()
            self._append("close", status=status, time_ms=now_ms(), unless_ended=False)
            self._closed = status
        delivered = self.flush(min(timeout_s, AWAY_TIMEOUT_S) if self._is_away else timeout_s)
        if delivered:
            self._thread.join(timeout_s)  # it tidies up the spool
        else:
            logger.warning(
                "what %s measured waits in %s; tintlab track sync sends it",
                self._sender.run_id or "this run",
                self._folder,
            )
        return delivered

    @property
    def _is_away(self) -> bool:
        """Whether the store has not answered lately, or never although it had the time."""
        if self._sender.run_id:
            return self._failures >= AWAY_AFTER_FAILURES
        return self._failures > 0 or time.monotonic() - self._opened_s > RUN_ID_TIMEOUT_S

    def _append(self, kind: str, **content: object) -> None:
        assert self._closed is None, f"{kind} logged to a run that is closed"
        self._segment.append({"kind": kind, **content})

    def _append_file(self, path: Path, folder: str | None, image: Record | None) -> None:
        file = str(path.relative_to(self._folder))
        self._append("file", file=file, folder=folder, image=image)

    def _new_file(self, name: str) -> Path:
        self._files += 1
        path = self._folder / "files" / f"{self._segment.path.stem}-{self._files:06d}" / name
        path.parent.mkdir(parents=True)
        return path

    def _keep_sending(self) -> None:
        pause_s = SEND_EVERY_S
        while True:
            self._wake.wait(pause_s)
            self._wake.clear()
            sent_before = self._segment.acknowledged
            try:
                self._segment.persist()
                while self._earlier:
                    self._sender.send(self._earlier[0])
                    self._earlier.pop(0).close()
                self._sender.send(self._segment)
                pause_s = SEND_EVERY_S
                self._in_trouble(None)
            except Exception as error:  # whatever it is, a training must not end because of it
                pause_s = min(2 * pause_s, RETRY_AT_MOST_S)
                if self._segment.acknowledged > sent_before:
                    self._failures = 0
                self._in_trouble(error)
            with self._sent:
                self._sent.notify_all()
            if self._closed and self._segment.acknowledged >= self._segment.end:
                break
        self._segment.close()
        if self._closed == "FINISHED":
            remove_if_delivered(self._folder)

    def _in_trouble(self, error: Exception | None) -> None:
        """Warn once, and leave word for whoever started this training, while the store is away."""
        word = self._folder / TROUBLE
        if error is None:
            self._failures = 0
            word.unlink(missing_ok=True)
            return
        self._failures += 1
        self._sender.known.set()  # nobody needs to wait for the id any longer
        problem = f"tracking store does not answer, spooling: {first_line(error)}"
        with suppress(OSError):  # the disk may be full
            word.write_text(problem)
        if not self._warned:
            self._warned = True
            logger.warning("%s", problem)


def set_final_status(workspace: Workspace, run_id: str, status: Status) -> None:
    """Set the status of a run whose own process was stopped; talks to the store, so use a thread.

    Raises: ConfigError: no such run. EnvironmentFault: the store does not answer.
    """
    with asking(workspace, unknown=f"no run {run_id} in {workspace.tracking_uri}") as client:
        if client.get_run(run_id).info.status != status:  # its own end time is the better one
            client.set_terminated(run_id, status)


def _already_logged(folder: Path) -> set[tuple[str, int, float | int]]:
    """Points and pictures that earlier processes logged, as (key, step, value or checksum)."""
    logged: set[tuple[str, int, float | int]] = set()
    for path in sorted(folder.glob("*.jsonl")):
        for record, _ in read_records(path):
            if record and record["kind"] == "metrics":
                logged.update((k, record["step"], v) for k, v in record["values"].items())
            elif record and record["kind"] == "file" and record["image"]:
                image = record["image"]
                logged.add((image["key"], image["step"], image["crc"]))
    return logged


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:  # the record that names it is appended after this
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
