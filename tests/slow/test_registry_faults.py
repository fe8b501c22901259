"""Promotions are raced and killed, models tampered with: @champion is always one whole version.

A good and a middling model that were really trained, and a poor first champion; every race and
every kill starts from the same registry, in processes forked from one that has imported everything.
"""

import itertools
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from figures import Figure
from mlflow_server import Server
from trained_runs import Beginning, trained, write_photos

from tintlab.config import ExperimentConfig, Workspace
from tintlab.errors import IntegrityError
from tintlab.model.artifact import load_model, save_model
from tintlab.model.colorizer import Colorizer
from tintlab.tracking.evaluations import evaluate_model
from tintlab.tracking.lineage import history, registered
from tintlab.tracking.models import find_model
from tintlab.tracking.moves import rollback
from tintlab.tracking.promotion import promote
from tintlab.tracking.registry import Version, aliases, cache, download, model_sha256
from tintlab.tracking.store import ensure_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RACES = 100
FLIPS = 200
STEPS = (
    "candidate evaluated", "champion evaluated", "described", "version created", "registered",
    "@challenger set", "intent written", "@previous set", "@champion set", "@challenger removed",
    "tagged", "written down",
)  # fmt: skip
"""Of a promotion over a champion, in their order."""

BACK = ("verified", "intent written", "@champion set", "@previous set", "tagged", "written down")
"""Of a rollback."""


class Racers:
    """The process that forks, and the registry that every race begins with."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace.at(str(folder / "ws"))
        Path(self.workspace.root).mkdir()
        ensure_store(self.workspace)
        self.shards = write_photos(folder / "shards")
        self.poor = trained(self.workspace, self.shards, "poor", steps=5)
        self.good = trained(self.workspace, self.shards, "good", steps=200)
        self.middling = trained(self.workspace, self.shards, "middling", steps=50)
        for run_id in (self.good, self.middling):  # measured now, so that races are quick
            evaluate_model(self.workspace, find_model(self.workspace, run_id), self.shards)
        promote(self.workspace, self.poor, self.shards)
        self.start = Beginning(self.workspace)
        script = str(Path(__file__).with_name("promotion_races.py"))
        self._process = subprocess.Popen(
            [sys.executable, script, self.workspace.root, self.shards],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(self, **order: Any) -> list[dict[str, Any]]:
        """What each forked process answered."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answers: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        return answers

    def look(self) -> dict[str, Any]:
        """Aliases, each of whose models was loaded and verified, and the audit log."""
        (seen,) = self.order(look=True)
        assert "ok" in seen, seen
        found: dict[str, Any] = seen["ok"]
        return found

    def forget_descriptions(self) -> None:
        """What an earlier registration left among the artefacts of its run; not the champion's."""
        for file in Path(self.workspace.artifacts).rglob("MLmodel"):
            if self.poor not in file.parts:
                file.unlink()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def racers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Racers]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slower with more
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        running = Racers(tmp_path_factory.mktemp("races"))
        yield running
        running.close()
    torch.set_num_threads(before)


@pytest.mark.timeout(1500)
def test_two_promotions_at_once_leave_one_champion_and_lose_nothing(
    racers: Racers, figure: Figure
) -> None:
    champions, lost, entries, overtaken = [], 0, [], 0
    for number in range(RACES):
        racers.start.restore()
        runs = [racers.good, racers.middling]
        answers = racers.order(promote=runs if number % 2 else runs[::-1])
        assert all("ok" in answer or answer["code"] == 6 for answer in answers), answers
        seen = racers.look()
        champions.append(seen["aliases"]["champion"])
        raced = seen["entries"][1:]  # the first made the poor one champion
        entries.append(len(raced))
        moves = [entry for entry in raced if entry["kind"] == "promotion"]
        overtaken += len(moves) - 1
        chain = [(1, None), *((entry["version"], entry["champion"]) for entry in moves)]
        lost += sum(
            after[1] != before[0] for before, after in itertools.pairwise(chain)
        )  # compared with another version than it replaced
        lost += chain[-1][0] != champions[-1]
        promoted = sum("ok" in answer for answer in answers)
        lost += promoted != len(moves)
    one_each = sum(version in (2, 3) for version in champions)
    both = sum(count == 2 for count in entries)
    figure(
        "Registry",
        f"{RACES} races of two promotions",
        f"one new champion in {one_each}, {lost} lost updates, 2 audit entries in {both}; in "
        f"{overtaken} the second was found better than the first",
        f"{RACES}, 0, {RACES}",
    )
    assert (one_each, lost, both) == (RACES, 0, RACES)


@pytest.mark.timeout(900)
def test_a_promotion_that_is_killed_at_any_step_is_finished_by_the_next(
    racers: Racers, figure: Figure
) -> None:
    whole = finished = 0
    for step in STEPS:
        racers.start.restore()
        racers.forget_descriptions()
        (answer,) = racers.order(promote=[racers.good], kill_at=step)
        assert answer == {"killed": 9}, f"{step} was never reached: {answer}"
        whole += racers.look()["aliases"]["champion"] in (1, 2)
        (again,) = racers.order(promote=[racers.good])
        seen = racers.look()
        states = [entry["state"] for entry in seen["entries"]]
        done = seen["aliases"] == {"champion": 2, "previous": 1} and "intended" not in states
        finished += "ok" in again and done
    figure(
        "Registry",
        f"a promotion killed at each of {len(STEPS)} steps",
        f"@champion on a whole version after {whole}, finished by the same command {finished}",
        f"{len(STEPS)}, {len(STEPS)}",
    )
    assert (whole, finished) == (len(STEPS), len(STEPS))


@pytest.mark.timeout(600)
def test_a_rollback_that_is_killed_at_any_step_is_finished_and_not_done_twice(
    racers: Racers, figure: Figure
) -> None:
    finished = 0
    for step in BACK:
        racers.start.restore()
        assert "ok" in racers.order(promote=[racers.good])[0]
        assert racers.order(rollback=True, kill_at=step) == [{"killed": 9}]
        (again,) = racers.order(rollback=True)
        over = step == "written down"  # it was over: there is nothing further back
        seen = racers.look()
        states = [entry["state"] for entry in seen["entries"]]
        finished += (
            ("code" in again and again["code"] == 5 if over else "ok" in again)
            and seen["aliases"] == {"champion": 1}
            and "intended" not in states
        )
    figure(
        "Registry",
        f"a rollback killed at each of {len(BACK)} steps",
        f"finished by the same command, and done once, {finished}",
        f"{len(BACK)}",
    )
    assert finished == len(BACK)


def test_a_rollback_takes_seconds(racers: Racers, figure: Figure) -> None:
    """The whole command, imports included."""
    racers.start.restore()
    assert "ok" in racers.order(promote=[racers.good])[0]
    command = [sys.executable, "-m", "pipelines", "rollback", "--json"]
    command += ["--workspace", racers.workspace.root, "--reason", "it takes how long"]
    started_s = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    took_s = time.monotonic() - started_s
    assert done.returncode == 0, done.stderr
    seen = racers.look()
    last = seen["entries"][-1]
    figure(
        "Registry",
        "rollback, one command",
        f"{took_s:.1f} s, entry in the audit log: {last['kind']}, {last['state']}",
        "10 s, with an entry",
    )
    assert seen["aliases"] == {"champion": 1}
    assert (last["kind"], last["state"], last["reason"]) == (
        "rollback",
        "done",
        "it takes how long",
    )
    assert took_s <= 10


def test_one_changed_byte_is_refused_wherever_it_is(tmp_path: Path, figure: Figure) -> None:
    """Weights, config and manifest in turn, at random places, by another random byte."""
    config = ExperimentConfig().replaced({"model.depth": 1})
    folder = tmp_path / "model"
    save_model(Colorizer(config.model, config.bins), config, folder, {"step": 1})
    workspace = Workspace.at(str(tmp_path / "ws"))
    sha256, rng = model_sha256(folder), np.random.default_rng(0)
    refused = codes = 0
    for number in range(FLIPS):
        file = folder / ("model.safetensors", "config.json", "manifest.json")[number % 3]
        whole = file.read_bytes()
        at = int(rng.integers(len(whole)))
        byte = bytes([whole[at] ^ int(rng.integers(1, 256))])
        file.write_bytes(whole[:at] + byte + whole[at + 1 :])
        cached(workspace, sha256, folder)
        try:
            fetched(workspace, sha256)
        except IntegrityError as error:
            refused += 1
            codes += error.exit_code == 7
        file.write_bytes(whole)
    cached(workspace, sha256, folder)
    load_model(fetched(workspace, sha256))
    figure(
        "Registry",
        f"one byte changed in weights, config or manifest, {FLIPS} times",
        f"refused {refused}, with exit code 7 {codes}",
        f"{FLIPS}, {FLIPS}",
    )
    assert (refused, codes) == (FLIPS, FLIPS)


def cached(workspace: Workspace, sha256: str, folder: Path) -> None:
    """Put a folder where a fetched version is kept."""
    place = cache(workspace) / sha256
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)


def fetched(workspace: Workspace, sha256: str) -> Path:
    return download(workspace, Version(1, "run", sha256, ()))


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.marker), "w")


def test_a_pickle_in_the_folder_is_never_executed(racers: Racers, figure: Figure) -> None:
    """Beside the model, under every name that somebody's loader would open, and in its place."""
    racers.start.restore()
    root = Path(racers.workspace.root)
    marker = root / "executed"
    canary = pickle.dumps(Trap(marker))
    pickle.loads(canary).close()
    assert marker.exists(), "unpickling it would be seen"
    marker.unlink()
    folder = find_model(racers.workspace, racers.good).folder
    names = ("evil.pkl", "python_model.pkl", "model.pt", "data/model.pth", "code/__init__.py")
    tried = 0
    environment = {
        **os.environ,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
    }
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(canary)
    code = "from pathlib import Path; from tintlab.model.artifact import load_model; "
    command = [sys.executable, "-c", f"{code}load_model(Path({str(folder)!r}))"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tried += len(names)
    for name in ("model.safetensors", "config.json", "manifest.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(canary)
        with pytest.raises(IntegrityError):
            load_model(folder)
        (folder / name).write_bytes(whole)
        tried += 1
    for name in names:
        (folder / name).unlink()
    figure(
        "Registry",
        f"a pickle in the model's folder, under {tried} names",
        f"executed {int(marker.exists())} times; our loader works with both of MLflow's "
        "switches off",
        "0 times",
    )
    assert not marker.exists()


@pytest.mark.timeout(600)
def test_the_same_holds_on_a_tracking_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    """A real server: promote, refuse, roll back; then it dies, and the champion is still found."""
    with Server(tmp_path / "server") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        workspace = Workspace.at(str(tmp_path / "ws"))
        shards = write_photos(tmp_path / "shards")
        poor = trained(workspace, shards, "poor", steps=5)
        good = trained(workspace, shards, "good", steps=100)
        assert promote(workspace, poor, shards).changed
        assert promote(workspace, good, shards).changed
        assert aliases(workspace) == {"champion": 2, "previous": 1}
        done = rollback(workspace)
        assert aliases(workspace) == {"champion": 1}
        elsewhere = Workspace.at(str(tmp_path / "another machine"))
        kinds = [entry.kind for entry in history(registered(elsewhere))]
        assert kinds == ["promotion", "promotion", "rollback"], "another machine sees them all"
        load_model(find_model(elsewhere, "@champion").folder)
        assert promote(workspace, "2", shards).version == 2
        found = find_model(workspace, "@champion")
        assert (found.version, found.cached, done.version) == (2, None, 1)
    found = find_model(workspace, "@champion")
    load_model(found.folder)
    assert found.cached is not None
    figure(
        "Registry",
        "a tracking server, and its death",
        f"{len(kinds)} of 3 entries read on another machine; @champion found afterwards as "
        f"version {found.version}",
        "3, version 2",
    )
    assert found.version == 2
    assert server.uri in found.cached


@pytest.mark.timeout(600)
def test_mlflow_serves_the_champion_over_http(
    racers: Racers, tmp_path: Path, figure: Figure
) -> None:
    """`mlflow models serve`, with the example that lies beside the model."""
    racers.start.restore()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", "models:/colorizer@champion", "--port", str(port)]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # uvicorn
    uri = racers.workspace.tracking_uri
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PATH": path}
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    photos = np.arange(2 * 12 * 15 * 3, dtype=np.uint8).reshape(2, 12, 15, 3)
    body = json.dumps({"inputs": photos.tolist(), "params": {"seed": 2}}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
    )
    try:
        until_s = time.monotonic() + 240
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    answer = np.array(json.loads(reply.read())["predictions"])
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "serve.log").read_text()
                assert time.monotonic() < until_s, (tmp_path / "serve.log").read_text()
                time.sleep(0.5)
    finally:
        os.killpg(process.pid, 9)
        process.wait()
    figure(
        "Registry",
        "mlflow models serve, asked over HTTP",
        f"photos of {photos.shape} give {answer.shape}, from {answer.min()} to {answer.max()}",
        "the same shape, 0 to 255",
    )
    assert answer.shape == photos.shape
    assert answer.min() >= 0
    assert answer.max() <= 255
