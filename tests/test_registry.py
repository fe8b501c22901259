"""Registered models: the same model once, aliases that move, and no byte that is not verified."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tintlab.config import ExperimentConfig, Workspace
from tintlab.errors import ConfigError, EnvironmentFault, IntegrityError
from tintlab.model.artifact import load_model, save_model
from tintlab.model.colorizer import Colorizer
from tintlab.settings import ModelConfig
from tintlab.tracking.registry import champion, download, register, set_alias, version_of
from tintlab.tracking.runs import open_run
from tintlab.tracking.store import connect

# SQLAlchemy 2.1 deprecates a loader that MLflow 3.17 uses when its first store opens.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)


@pytest.fixture
def workspace(
    migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workspace]:
    """A workspace with its own tracking database, in a folder whose name has a space."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "work space"
    root.mkdir()
    shutil.copy(migrated, root / "mlflow.db")
    yield Workspace.at(str(root))
    assert not (tmp_path / "mlruns").exists(), "MLflow wrote into the current folder"


@pytest.fixture
def run_id(workspace: Workspace) -> str:
    """A finished run."""
    run = open_run(workspace, "lr", "trial 0", "lr/0")
    assert run.close("FINISHED", timeout_s=60.0)
    return run.run_id


def saved(folder: Path, note: str) -> Path:
    """A small untrained model; another note makes it another model."""
    config = ExperimentConfig(model=ModelConfig(depth=1))
    save_model(Colorizer(config.model, config.bins), config, folder, metadata={"note": note})
    return folder


def test_the_same_model_is_one_version(workspace: Workspace, run_id: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "a")
    first = register(workspace, run_id, folder)
    again = register(workspace, run_id, shutil.copytree(folder, tmp_path / "copy"))
    assert (first.version, again) == (1, first)
    other = register(workspace, run_id, saved(tmp_path / "other", "b"))
    assert other.version == 2
    assert other.model_sha256 != first.model_sha256
    # The second model of a run must not overwrite the files that the first version points at.
    for version, source in ((first, folder), (other, tmp_path / "other")):
        fetched = download(workspace, version)
        for file in source.iterdir():
            assert (fetched / file.name).read_bytes() == file.read_bytes()
    assert len(connect(workspace).search_model_versions("name = 'colorizer'")) == 2


def test_an_interrupted_registration_is_finished_by_the_next(
    workspace: Workspace, run_id: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "model", "a")
    client = connect(workspace)
    client.log_artifact(run_id, str(folder / "manifest.json"), "model")
    half = tmp_path / "model.safetensors"
    half.write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    client.log_artifact(run_id, str(half), "model")
    client.create_registered_model("colorizer")
    version = register(workspace, run_id, folder)
    assert version.version == 1
    load_model(download(workspace, version))


def test_the_champion_moves_and_is_found_by_name_and_number(
    workspace: Workspace, run_id: str, tmp_path: Path
) -> None:
    assert champion(workspace) is None
    with pytest.raises(
        EnvironmentFault, match=r"^@champion of colorizer is not set .* promote --run RUN_ID$"
    ):
        version_of(workspace, "champion")
    first = register(workspace, run_id, saved(tmp_path / "a", "a"))
    second = register(workspace, run_id, saved(tmp_path / "b", "b"))
    assert champion(workspace) is None, "registering promotes nothing"
    for version in (first, second, second, first):
        set_alias(workspace, version, "champion")
        holder = champion(workspace)
        assert holder is not None
        assert (holder.version, holder.aliases) == (version.version, ("champion",))
        assert version_of(workspace, "@champion") == holder
    assert version_of(workspace, "2") == second
    assert register(workspace, run_id, tmp_path / "a").aliases == ("champion",)
    with pytest.raises(ConfigError, match=r"^colorizer has no version 7"):
        version_of(workspace, "7")


def test_a_changed_byte_is_refused_wherever_it_is(
    workspace: Workspace, run_id: str, tmp_path: Path
) -> None:
    version = register(workspace, run_id, saved(tmp_path / "model", "a"))
    stored = Path(connect(workspace).get_run(run_id).info.artifact_uri) / "model"
    for name in ("model.safetensors", "config.json", "manifest.json"):
        with flipped(stored / name), pytest.raises(IntegrityError, match="sha256"):
            download(workspace, version)
    assert not list((Path(workspace.root) / "cache" / "models").glob("*/")), "nothing bad is kept"
    cached = download(workspace, version)
    for name in ("model.safetensors", "config.json", "manifest.json"):
        with flipped(cached / name), pytest.raises(IntegrityError, match=r"remove .* to fetch it"):
            download(workspace, version)
    assert download(workspace, version) == cached
    with flipped(tmp_path / "model" / "model.safetensors"), pytest.raises(IntegrityError):
        register(workspace, run_id, tmp_path / "model")


def test_only_the_model_is_fetched(workspace: Workspace, run_id: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "a")
    (folder / "evil.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    version = register(workspace, run_id, folder, card="# A model")
    client = connect(workspace)
    names = {file.path for file in client.list_artifacts(run_id, "model")}
    model = {"model.safetensors", "config.json", "manifest.json"}
    told = {"MLmodel", "input_example.json", "serving_input_example.json", "model_card.md"}
    assert names == {f"model/{name}" for name in model | told}
    client.log_artifact(run_id, str(folder / "evil.pkl"), "model")
    assert {file.name for file in download(workspace, version).iterdir()} == model


def test_a_cached_model_needs_no_store(
    workspace: Workspace, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(workspace, run_id, saved(tmp_path / "model", "a"))
    cached = download(workspace, version)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert download(workspace, version) == cached
    with pytest.raises(EnvironmentFault, match=r"http://127\.0\.0\.1:9 does not answer"):
        champion(workspace)


def test_a_missing_run_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^no run nope in sqlite"):
        register(workspace, "nope", saved(tmp_path / "model", "a"))
    assert connect(workspace).search_registered_models() == []


def test_mlflow_loads_the_champion_by_its_alias(
    workspace: Workspace, run_id: str, tmp_path: Path
) -> None:
    """In a process of its own, as a user does, with pickles forbidden."""
    version = register(workspace, run_id, saved(tmp_path / "model", "a"))
    set_alias(workspace, version, "champion")
    photos = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "photos.npy", photos)
    code = f"""if True:
        import mlflow, numpy as np
        mlflow.set_tracking_uri({workspace.tracking_uri!r})
        model = mlflow.pyfunc.load_model("models:/colorizer@champion")
        np.save("colored.npy", model.predict(np.load("photos.npy"), params=None))
    """
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    colored = np.load(tmp_path / "colored.npy")
    assert colored.shape == photos.shape
    assert colored.dtype == np.uint8
    assert (colored != photos).any()


class flipped:
    """One byte of a file changed inside the block."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._data = file.read_bytes()

    def __enter__(self) -> None:
        middle = len(self._data) // 2
        changed = bytes([self._data[middle] ^ 1])
        self._file.write_bytes(self._data[:middle] + changed + self._data[middle + 1 :])

    def __exit__(self, *_: object) -> None:
        self._file.write_bytes(self._data)
