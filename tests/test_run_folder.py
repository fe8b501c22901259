"""A run's files on a disk and on storage without folders: the same promises, and one owner."""

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from mlflow import MlflowClient
from small_shards import small_shards
from torch import nn

from tintlab.cluster import storage_of
from tintlab.config import ExperimentConfig, Workspace
from tintlab.data.storage import on_this_machine, require_writable
from tintlab.errors import ConfigError, ConflictError, EnvironmentFault, IntegrityError
from tintlab.model.artifact import load_model
from tintlab.settings import OptimizerConfig
from tintlab.training import ownership
from tintlab.training.checkpoint_choice import DamagedCheckpoint
from tintlab.training.checkpoints import CONTENT, MANIFEST, WEIGHTS, Checkpoints, State, read
from tintlab.training.failures import TrainingStopped
from tintlab.training.loop import Report
from tintlab.training.optimizer import adamw, moments_by_name
from tintlab.training.ownership import Owner, locked, preflight
from tintlab.training.remote_checkpoints import RemoteCheckpoints
from tintlab.training.request import Outcome, RunRequest
from tintlab.training.run_folder import RunFolder
from tintlab.training.tracked import train_tracked
from tintlab.training.workers import Tensors

TINY = ExperimentConfig().replaced(
    {
        "data.crop_px": 16,
        "evaluation.crop_px": 16,
        "evaluation.panel_images": 1,
        "evaluation.lpips_net": "none",
        "bins.per_channel": 8,
        "model.depth": 1,
        "training.steps": 6,
        "training.batch_size": 8,
        "training.eval_every_steps": 2,
    }
)
FILES = [*CONTENT, MANIFEST]


class FlakyFileSystem(MemoryFileSystem):
    """A store in memory of its own that refuses from its n-th upload on, halfway through a file."""

    protocol = "flaky"
    store: dict = {}  # noqa: RUF012 - as in the class it is made from
    pseudo_dirs = [""]  # noqa: RUF012
    uploads_until_failure = 1_000_000
    error: BaseException = OSError("503 Slow Down")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def put_file(self, lpath: str, rpath: str, **kwargs: object) -> None:
        type(self).uploads_until_failure -= 1
        if self.uploads_until_failure <= 0:
            self.pipe_file(rpath, Path(lpath).read_bytes()[:100])
            raise self.error
        super().put_file(lpath, rpath, **kwargs)


@pytest.fixture
def flaky() -> Iterator[type[FlakyFileSystem]]:
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    FlakyFileSystem.store.clear()
    yield FlakyFileSystem
    FlakyFileSystem.uploads_until_failure = 1_000_000
    FlakyFileSystem.error = OSError("503 Slow Down")


def parts(seed: int) -> tuple[Tensors, Tensors, Tensors]:
    torch.manual_seed(seed)
    model, ema = nn.Linear(3, 2), nn.Linear(3, 2)
    moments = moments_by_name(adamw(model, OptimizerConfig()))
    return model.state_dict(), ema.state_dict(), moments


def saved(folder: Path, step: int, bits: float = 1.0) -> Path:
    state = State(
        step=step,
        images_seen=step,
        data_fingerprint="sky",
        metrics={"val/bits_per_dim": bits},
        config=TINY,
    )
    return Checkpoints(folder).save(state, *parts(step))


@pytest.fixture
def remote(flaky: type[FlakyFileSystem], tmp_path: Path) -> RemoteCheckpoints:
    """Good checkpoints at steps 100 and 200."""
    checkpoints = RemoteCheckpoints(flaky(), "/bucket/run")
    for step in (100, 200):
        checkpoints.upload(saved(tmp_path / "here", step))
    return checkpoints


def test_what_comes_back_from_remote_storage_is_what_was_saved(remote, tmp_path):
    copy = remote.newest(tmp_path / "there")
    assert copy == tmp_path / "there" / "step-00000200"
    for name in FILES:
        assert (copy / name).read_bytes() == (tmp_path / "here" / copy.name / name).read_bytes()
    kept = read(copy)
    assert kept.state.step == 200
    assert torch.equal(kept.weights["weight"], parts(seed=200)[0]["weight"])


def test_where_nothing_was_written_there_is_no_newest(tmp_path):
    empty = RemoteCheckpoints(fsspec.filesystem("memory"), f"/{secrets.token_hex(4)}")
    assert empty.newest(tmp_path) is None
    assert empty.prune(1, 1) == []


@pytest.mark.parametrize("name", FILES)
def test_damage_in_remote_storage_is_named_and_passed_over(remote, flaky, tmp_path, name):
    path = f"/bucket/run/step-00000200/{name}"
    bad = bytearray(flaky().cat_file(path))
    bad[len(bad) // 2] ^= 4
    flaky().pipe_file(path, bytes(bad))
    said = rf"flaky:///bucket/run/step-00000200.*{name}.*using step-00000100 instead"
    with pytest.warns(DamagedCheckpoint, match=said):
        assert remote.newest(tmp_path / "there").name == "step-00000100"
    remote.upload(tmp_path / "here" / "step-00000200")  # as training writes it again
    assert remote.newest(tmp_path / "there").name == "step-00000200"


@pytest.mark.parametrize("name", FILES)
def test_a_file_missing_in_remote_storage_is_never_taken_for_a_checkpoint(
    remote, flaky, tmp_path, name
):
    flaky().rm_file(f"/bucket/run/step-00000200/{name}")
    if name == MANIFEST:
        assert remote.newest(tmp_path / "there").name == "step-00000100"
        remote.upload(saved(tmp_path / "here", 300))
        assert not flaky().find("/bucket/run/step-00000200")
    else:
        with pytest.warns(DamagedCheckpoint, match=rf"flaky:.*step-00000200/{name} is missing"):
            assert remote.newest(tmp_path / "there").name == "step-00000100"


def test_with_all_of_them_damaged_nothing_is_guessed(remote, flaky, tmp_path):
    for step in (100, 200):
        flaky().pipe_file(f"/bucket/run/step-{step:08d}/{WEIGHTS}", b"")
    said = r"no usable checkpoint in flaky:///bucket/run: .*step-00000200/weights.*0 bytes"
    with pytest.raises(IntegrityError, match=said):
        remote.newest(tmp_path / "there")


@pytest.mark.parametrize("upload", range(1, 6))
def test_an_upload_that_fails_halfway_leaves_the_earlier_ones_and_nothing_else(
    remote, flaky, tmp_path, upload
):
    third = saved(tmp_path / "here", 300)
    before = flaky().find("/bucket")
    flaky.uploads_until_failure = upload
    said = (
        r"cannot write checkpoint flaky:///bucket/run/step-00000300, which needs [\d,]+ bytes: 503"
    )
    with pytest.raises(EnvironmentFault, match=said):
        remote.upload(third)
    assert flaky().find("/bucket") == before
    flaky.uploads_until_failure = 1_000_000
    assert remote.newest(tmp_path / "there").name == "step-00000200"
    remote.upload(third)
    assert remote.newest(tmp_path / "there").name == "step-00000300"


def test_an_upload_stopped_by_ctrl_c_is_cleared_away_by_the_next(remote, flaky, tmp_path):
    flaky.uploads_until_failure, flaky.error = 3, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        remote.upload(saved(tmp_path / "here", 300))
    assert len(flaky().find("/bucket/run/step-00000300")) == 3
    assert remote.newest(tmp_path / "there").name == "step-00000200"
    flaky.uploads_until_failure = 1_000_000
    remote.upload(saved(tmp_path / "here", 400))
    assert not flaky().find("/bucket/run/step-00000300")


def test_a_store_that_keeps_half_of_what_it_is_sent_is_found_out(remote, flaky, tmp_path):
    flaky.uploads_until_failure, flaky.error = 2, EOFError()

    class Silent(flaky):
        def put_file(self, lpath: str, rpath: str, **kwargs: object) -> None:
            try:
                super().put_file(lpath, rpath, **kwargs)
            except EOFError:
                return

    with pytest.raises(EnvironmentFault, match=r"has 100 bytes after \d+ were sent"):
        RemoteCheckpoints(Silent(), "/bucket/run").upload(saved(tmp_path / "here", 300))


def test_remote_pruning_keeps_the_newest_and_the_best_of_every_process(flaky, tmp_path):
    for step, bits in {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: 2.6}.items():
        here = tmp_path / str(step)  # each written by a process that knows no other
        RemoteCheckpoints(flaky(), "/bucket/run").upload(saved(here, step, bits))
    checkpoints = RemoteCheckpoints(flaky(), "/bucket/run")
    assert checkpoints.prune(keep_last=2, keep_best=1) == ["step-00000001", "step-00000003"]
    assert checkpoints.all() == ["step-00000002", "step-00000004", "step-00000005"]
    assert len(flaky().find("/bucket")) == 3 * len(FILES)


def test_a_lock_is_for_one_and_names_its_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "PATIENCE_S", 0.2)
    with locked(tmp_path / "run", "train/a"):
        with (
            pytest.raises(
                ConflictError,
                match=rf"^train/a is being trained by process {os.getpid()} on .* since",
            ),
            locked(tmp_path / "run", "train/a"),
        ):
            pass
        with locked(tmp_path / "other", "train/b"):
            pass
    with locked(tmp_path / "run", "train/a"):  # what a dead holder left in the file is no lock
        pass


def test_of_two_trainings_on_storage_without_locks_the_newer_goes_on(flaky):
    first, second = (Owner(flaky(), "/bucket/run", "train/a") for _ in range(2))
    assert first.begin() is None
    first.require()
    assert f"process {os.getpid()} on" in str(second.begin())
    with pytest.raises(ConflictError, match=r"train/a was taken over by process \d+ on"):
        first.require()
    first.end()
    second.require()
    second.end()
    assert Owner(flaky(), "/bucket/run", "train/a").begin() is None


@pytest.mark.parametrize("place", ["/proc/tintlab", "{file}/run", "http://localhost:9/x"])
def test_a_place_that_cannot_be_written_is_one_line_at_once(tmp_path, place):
    (tmp_path / "file").write_text("")
    uri = place.format(file=tmp_path / "file")
    with pytest.raises(EnvironmentFault, match=rf"^cannot write to {uri}: .*; choose a place"):
        require_writable(uri)


def test_preflight_leaves_no_file_but_the_lock(tmp_path):
    preflight(Workspace.at(f"file://{tmp_path}"), "train/a")
    folder = tmp_path / "checkpoints" / "train_a"
    assert [path.name for path in folder.iterdir()] == [ownership.LOCK]


def test_ray_is_given_a_place_that_its_workers_see(flaky, tmp_path):
    with pytest.raises(ConfigError, match=r"memory://ws is the memory of this one process"):
        storage_of(Workspace.at("memory://ws"))
    at_path, at_uri = (storage_of(Workspace.at(f"{p}{tmp_path}")) for p in ("", "file://"))
    assert at_path == at_uri == {"storage_path": f"{tmp_path}/ray"}
    remote = storage_of(Workspace.at("flaky://bucket"))
    remote["storage_filesystem"].create_dir(remote["storage_path"])
    with remote["storage_filesystem"].open_output_stream(f"{remote['storage_path']}/x") as file:
        file.write(b"x")
    assert flaky().cat_file("/bucket/ray/x") == b"x"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_shards(tmp_path_factory.mktemp("shards"), validation=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tracking database; MLflow speaks to fewer kinds of storage than fsspec."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    MlflowClient(uri).create_experiment("e", artifact_location=str(folder / "artifacts"))
    return uri


def trained(root: str, shards: str, name: str = "a", **changes: object) -> Outcome:
    config = TINY.replaced({key.replace("__", "."): value for key, value in changes.items()})
    request = RunRequest(experiment="e", name=name, identity=f"train/{name}")
    return train_tracked(config, Workspace.at(root), shards, request)


@pytest.fixture(scope="module")
def through(shards: str, store: str, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same training, never interrupted, in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        return trained(str(tmp_path_factory.mktemp("through")), shards, "through")


@pytest.mark.parametrize("kind", ["path", "file", "flaky"])
def test_a_training_lives_on_any_storage(
    kind, flaky, shards, store, through, tmp_path, monkeypatch, caplog
):
    """Interrupted by a storage that fails, continued by the same command, and finished."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    root = {"path": str(tmp_path), "file": f"file://{tmp_path}", "flaky": "flaky://ws"}[kind]
    if kind == "flaky":
        flaky.uploads_until_failure = 8  # in the middle of the second checkpoint
        with pytest.raises(EnvironmentFault, match=r"flaky:///ws/checkpoints/train_a-flaky/step-0"):
            trained(root, shards, f"a-{kind}")
        flaky.uploads_until_failure = 1_000_000
    with caplog.at_level(logging.WARNING):
        outcome = trained(root, shards, f"a-{kind}")
    assert "never said that it ended" not in caplog.text

    folder = RunFolder(Workspace.at(root), f"train/a-{kind}")
    uri = {"path": f"{tmp_path}", "file": f"{tmp_path}", "flaky": "flaky:///ws"}[kind]
    assert folder.uri == f"{uri}/checkpoints/train_a-{kind}"
    assert outcome.model == f"{folder.uri}/model"
    fs, root_path = fsspec.core.url_to_fs(folder.uri)
    names = {path.removeprefix(f"{root_path}/") for path in fs.find(root_path)}
    assert names - {ownership.LOCK} == {
        "experiment.json",
        "outcome.json",
        *(f"model/{name}" for name in ("model.safetensors", "config.json", "manifest.json")),
        *(f"{step}/{n}" for step in ("step-00000004", "step-00000006") for n in FILES),
    } | {name for name in names if name.startswith("step-00000002/")}  # where it was the best
    fs.get(outcome.model, str(tmp_path / "fetched"), recursive=True)
    ours, _ = load_model(tmp_path / "fetched")
    theirs, _ = load_model(Path(through.model))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name

    assert trained(root, shards, f"a-{kind}") == outcome  # finished: nothing is trained again
    run = MlflowClient(store).get_run(outcome.run_id)
    assert run.info.status == "FINISHED"
    if kind == "flaky":
        assert not (on_this_machine(folder.uri, "checkpoints") / "rank-0").exists()


def test_on_other_machines_the_newer_training_goes_on_and_the_older_ends(
    flaky, shards, store, tmp_path, monkeypatch
):
    """Another machine is one with a temporary folder of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr(ownership, "PATIENCE_S", 0.2)
    request = RunRequest(experiment="e", name="d", identity="train/d")
    workspace = Workspace.at("flaky://ws")
    newer: list[Outcome] = []
    notices: list[str] = []

    def on_report(report: Report, run_id: str) -> None:
        if newer or report.step != 2:
            return
        with pytest.raises(ConflictError, match="train/d is being trained by process"):
            train_tracked(TINY, workspace, shards, request)  # the same machine: the older goes on
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
        newer.append(train_tracked(TINY, workspace, shards, request, on_notice=notices.append))
        monkeypatch.setattr(tempfile, "tempdir", None)

    with pytest.raises(ConflictError, match="train/d was taken over by nobody known"):
        train_tracked(TINY, workspace, shards, request, on_report=on_report)
    assert [notice.split(" on ")[0] for notice in notices] == [f"process {os.getpid()}"]
    assert train_tracked(TINY, workspace, shards, request) == newer[0]


def test_what_a_training_keeps_when_it_is_asked_to_stop_is_on_the_storage(
    flaky, shards, store, through, monkeypatch
):
    """Between two reports, of which each would have brought its checkpoint there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    workspace, request = Workspace.at("flaky://ws"), RunRequest("e", "s", "train/s")
    steps: list[int] = []
    with pytest.raises(TrainingStopped, match="stopped after step 3 of 6"):
        train_tracked(
            TINY,
            workspace,
            shards,
            request,
            on_progress=lambda progress: steps.append(progress.step),
            stop=lambda: len(steps) == 2,
        )
    assert flaky().exists(f"/ws/checkpoints/train_s/step-00000003/{MANIFEST}")
    outcome = train_tracked(
        TINY, workspace, shards, request, on_progress=lambda progress: steps.append(progress.step)
    )
    assert steps == [1, 2, 3, 4, 5, 6]
    assert outcome.metrics["val/bits_per_dim"] == through.metrics["val/bits_per_dim"]


def content(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ownership.LOCK]


def test_a_run_goes_on_only_with_what_it_was_started_with(shards, store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    root = str(tmp_path)
    folder = tmp_path / "checkpoints" / "train_c"
    outcome = trained(root, shards, "c")
    (folder / "outcome.json").unlink()
    before = {path: path.read_bytes() for path in content(folder)}
    with pytest.raises(ConfigError, match=r"train_c was started with model\.depth=1, got 2; give"):
        trained(root, shards, "c", model__depth=2)
    (folder / "experiment.json").write_text('{"model.depth": 1')
    with pytest.raises(IntegrityError, match=r"experiment\.json is not what was written"):
        trained(root, shards, "c")
    after = {path: path.read_bytes() for path in content(folder)}
    assert {k: v for k, v in after.items() if k.name != "experiment.json"} == {
        k: v for k, v in before.items() if k.name != "experiment.json"
    }
    (folder / "experiment.json").write_bytes(before[folder / "experiment.json"])
    again = trained(root, shards, "c", training__keep_last=1)  # which may change
    assert again.run_id == outcome.run_id
