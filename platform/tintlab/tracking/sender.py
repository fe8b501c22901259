"""Replays a run's spooled records to MLflow, each with its own time and step.

Every record can be sent twice: metrics have the primary key (key, time, step, value), params take
their own value again, tags and files overwrite, a dataset input is unique by name and digest, and
an image is uploaded under a name that its record fixes.
"""

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.multimedia import compress_image_size
from mlflow.utils import mlflow_tags
from mlflow.utils.validation import (
    MAX_DATASET_DIGEST_SIZE,
    MAX_METRICS_PER_BATCH,
    MAX_PARAMS_TAGS_PER_BATCH,
)
from PIL import Image

from tintlab.config import Workspace
from tintlab.tracking.locks import locked
from tintlab.tracking.spool import Record, Segment
from tintlab.tracking.store import connect, ensure_store, experiment_id, first_line

logger = logging.getLogger(__name__)

IDENTITY_TAG = "tintlab.identity"
"""The tag by which a run is found again after any crash."""


def find_run(client: MlflowClient, experiment: str, identity: str) -> str | None:
    """The id of the oldest run with this identity in the experiment of that id."""
    quote = '"' if "'" in identity else "'"
    runs = client.search_runs(
        [experiment],
        f"tags.`{IDENTITY_TAG}` = {quote}{identity}{quote}",
        max_results=1,
        order_by=["attributes.start_time ASC"],
    )
    return str(runs[0].info.run_id) if runs else None


class Sender:
    """Sends the segments of one run, in order; used by one thread at a time."""

    def __init__(self, workspace: Workspace, folder: Path, header: Record) -> None:
        self._workspace = workspace
        self._folder = folder
        self._header = header
        self._client: MlflowClient | None = None
        self._refused: set[str] = set()
        self._run_id = ""
        self._experiment = ""
        self._created = False
        self._under_parent = False
        self.known = threading.Event()
        """Set as soon as `run_id` is, or cannot be found out for now."""

    @property
    def run_id(self) -> str:
        """The run's id in MLflow; empty until the store has answered once."""
        return self._run_id

    def send(self, segment: Segment) -> int:
        """Send what the store does not have, acknowledging as it goes; returns how many records.

        Raises: whatever the store raises when it does not take a record now; nothing is skipped.
        """
        if self._client is None:
            ensure_store(self._workspace)
            self._client = connect(self._workspace)
        if not self._run_id:
            self._run_id = self._find_or_create(self._client, self._header)
            self.known.set()
        sent = 0
        for records, end in batches(segment.unsent()):
            for record in records[:1]:
                self._apply(self._client, record["kind"], records)
            segment.acknowledge(end)
            sent += len(records)
            for record in records:
                if "file" in record:
                    shutil.rmtree((self._folder / record["file"]).parent, ignore_errors=True)
        return sent

    def _apply(self, client: MlflowClient, kind: str, records: list[Record]) -> None:
        run_id = self._run_id
        record = records[0]
        if kind == "open":
            if self._created:  # with all of this, just now
                self._created = False
                return
            if client.get_run(run_id).info.status != "RUNNING":
                client.update_run(run_id, status="RUNNING")
            self._set_tags(client, self._tags(client, record))
        elif kind == "metrics":
            metrics = [
                Metric(key, value, record["time_ms"], record["step"])
                for record in records
                for key, value in record["values"].items()
            ]
            size = MAX_METRICS_PER_BATCH
            self._deliver(lambda part: client.log_batch(run_id, metrics=part), metrics, size)
        elif kind == "params":
            params = [Param(key, value) for key, value in record["values"].items()]
            size = MAX_PARAMS_TAGS_PER_BATCH
            self._deliver(lambda part: client.log_batch(run_id, params=part), params, size)
        elif kind == "tags":
            self._set_tags(client, record["values"])
        elif kind == "file":
            self._deliver(lambda part: self._upload(client, part[0]), [record], 1)
        elif kind == "dataset":
            inputs = [dataset_input(record)]
            self._deliver(lambda part: client.log_inputs(run_id, datasets=part), inputs, 1)
        elif kind == "close":
            if self._header["parent"] and not self._under_parent:
                self._set_tags(client, self._tags(client, self._header))
            ended = client.get_run(run_id).info.status != "RUNNING"
            if not (ended and record["unless_ended"]):
                client.set_terminated(run_id, record["status"], record["time_ms"])
        else:
            raise AssertionError(f"a record of unknown kind {kind!r} in {self._folder}")

    def _find_or_create(self, client: MlflowClient, record: Record) -> str:
        experiment = experiment_id(client, self._workspace, record["experiment"])
        self._experiment = experiment
        with locked(self._folder.with_name(f"{self._folder.name}.create.lock")):
            # Looked up first every time: an earlier create may have reached the store unanswered.
            found = find_run(client, experiment, record["identity"])
            if found is None:
                found = str(
                    client.create_run(
                        experiment,
                        start_time=record["time_ms"],
                        run_name=record["name"],
                        tags={IDENTITY_TAG: record["identity"], **self._tags(client, record)},
                    ).info.run_id
                )
                self._created = True
        return found

    def _tags(self, client: MlflowClient, record: Record) -> dict[str, str]:
        """The tags of the run, with its parent's id if the store has the parent already."""
        tags: dict[str, str] = dict(record["tags"])
        if record["parent"]:
            parent = find_run(client, self._experiment, record["parent"])
            if parent:
                tags[mlflow_tags.MLFLOW_PARENT_RUN_ID] = parent
                self._under_parent = True
        return tags

    def _set_tags(self, client: MlflowClient, values: dict[str, str]) -> None:
        tags = [RunTag(key, value) for key, value in values.items()]
        run_id, size = self._run_id, MAX_PARAMS_TAGS_PER_BATCH
        self._deliver(lambda part: client.log_batch(run_id, tags=part), tags, size)

    def _upload(self, client: MlflowClient, record: Record) -> None:
        path = self._folder / record["file"]
        if not path.exists():
            logger.warning("%s is gone from the spool and was not sent", path)
            return
        client.log_artifact(self._run_id, str(path), record["folder"])
        if record["image"]:  # the grid in the UI shows a small copy, named as `log_image` names it
            small = path.with_name(f"{path.stem}+compressed.webp")
            with Image.open(path) as image:
                compress_image_size(image).save(small)
            client.log_artifact(self._run_id, str(small), record["folder"])
            client.set_tag(self._run_id, mlflow_tags.MLFLOW_LOGGED_IMAGES, True)

    def _deliver(self, send: Callable[[Any], object], items: Sequence[Any], size: int) -> None:
        """Send items in parts of at most `size`; an item the store will never take is named once.

        One such item makes the store refuse its whole part, so a refused part is sent in halves.
        """
        for start in range(0, len(items), size):
            part = items[start : start + size]
            try:
                send(part)
            except MlflowException as error:
                # A deleted run refuses everything until it is restored: the spool keeps it all.
                if error.error_code != "INVALID_PARAMETER_VALUE" or "'active' state" in str(error):
                    raise
                if len(part) > 1:
                    self._deliver(send, part, (len(part) + 1) // 2)
                    continue
                name = str(getattr(part[0], "key", type(part[0]).__name__))
                if name not in self._refused:
                    self._refused.add(name)
                    logger.warning("MLflow refused %s: %s", name, first_line(error))


def batches(records: Iterator[tuple[Record | None, int]]) -> Iterator[tuple[list[Record], int]]:
    """Neighbouring metrics together, up to one request's worth; everything else alone."""
    waiting: list[Record] = []
    points, end = 0, 0
    for record, after in records:
        metrics = record is not None and record["kind"] == "metrics"
        if waiting and not (metrics and points < MAX_METRICS_PER_BATCH):
            yield waiting, end
            waiting, points = [], 0
        end = after
        if record is None:
            logger.warning("a damaged record before byte %d of a spool was skipped", after)
            yield [], end
        elif metrics:
            waiting.append(record)
            points += len(record["values"])
        else:
            yield [record], end
    if waiting:
        yield waiting, end


def dataset_input(record: Record) -> DatasetInput:
    """A data set as MLflow's run input: named and fingerprinted, none of its data.

    Source: mlflow 3.17 `data/filesystem_dataset_source.py` for the form of the source.
    """
    uri, fingerprint = record["uri"], record["fingerprint"]
    dataset = Dataset(
        name="lab-shards",
        digest=fingerprint[:MAX_DATASET_DIGEST_SIZE],
        source_type=uri.partition("://")[0] if "://" in uri else "local",
        source=json.dumps({"uri": uri}),
        profile=json.dumps({"fingerprint": fingerprint, **record["counts"]}),
    )
    return DatasetInput(dataset, [InputTag(mlflow_tags.MLFLOW_DATASET_CONTEXT, "training")])
