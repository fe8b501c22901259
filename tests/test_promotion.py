"""Promotion and rollback, with models that were really trained: 5 steps, and 200.

If these fail, @champion can become a worse model, or one cannot say how it became what it is.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from trained_runs import TEST_PHOTOS, Beginning, trained, write_photos

from pipelines.__main__ import main
from tintlab.config import Workspace
from tintlab.errors import ConfigError, ConflictError, EnvironmentFault, GateRefused, IntegrityError
from tintlab.evaluation.gate import PromotionPolicy
from tintlab.model.artifact import WEIGHTS, load_model, save_model
from tintlab.tracking import audit, store
from tintlab.tracking.lineage import history, registered
from tintlab.tracking.models import find_model
from tintlab.tracking.moves import moving, rollback
from tintlab.tracking.promotion import promote
from tintlab.tracking.registry import aliases, champion
from tintlab.tracking.runs import open_run
from tintlab.tracking.store import connect, ensure_store

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)


class Stage:
    """A workspace with runs of different quality, and nothing registered."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace.at(str(folder / "ws"))
        Path(self.workspace.root).mkdir()
        ensure_store(self.workspace)
        self.shards = write_photos(folder / "shards")
        self.poor = trained(self.workspace, self.shards, "poor", steps=5)
        self.good = trained(self.workspace, self.shards, "good", steps=200)
        self.start = Beginning(self.workspace)

    def promote(self, run_id: str, **how: Any) -> Any:
        return promote(self.workspace, run_id, self.shards, **how)

    def command(self, *argv: str) -> list[str]:
        return [*argv, "--workspace", self.workspace.root]

    @property
    def aliases(self) -> dict[str, int]:
        return aliases(self.workspace)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slower with more
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Stage(tmp_path_factory.mktemp("promotion"))
    torch.set_num_threads(before)


@pytest.fixture
def stage(prepared: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    prepared.start.restore()
    return prepared


def test_a_better_model_follows_and_a_rollback_brings_the_old_one_back(stage: Stage) -> None:
    first = stage.promote(stage.poor)
    assert (first.version, first.changed, first.before) == (1, True, None)
    assert first.verdict.startswith("there was no champion; ")
    assert [rule["rule"] for rule in first.rules] == ["photos", "finite output"]
    assert stage.aliases == {"champion": 1}
    again = stage.promote(stage.poor)
    assert (again.version, again.changed) == (1, False)
    second = stage.promote(stage.good, expected=1)
    assert (second.version, second.champion_version, second.changed) == (2, 2, True)
    assert all(rule["passed"] for rule in second.rules)
    assert len(second.rules) == 6
    assert stage.aliases == {"champion": 2, "previous": 1}
    back = rollback(stage.workspace, expected=2, reason="too green")
    assert (back.version, back.champion, back.reason) == (1, 2, "too green")
    assert stage.aliases == {"champion": 1}, "before version 1 there was none"
    with pytest.raises(ConflictError, match="no @previous before version 1"):
        rollback(stage.workspace)
    entries = audit.read(stage.workspace)
    assert [(e.kind, e.champion, e.version, e.state) for e in entries] == [
        ("promotion", None, 1, "done"),
        ("promotion", 1, 2, "done"),
        ("rollback", 2, 1, "done"),
    ]
    assert all(e.who and e.machine and e.when for e in entries)
    assert entries[1].policy_sha256 == PromotionPolicy().sha256
    assert entries[1].rules == second.rules
    kept = [entry for one in registered(stage.workspace) for entry in one.history]
    assert sorted(kept, key=lambda entry: entry.id) == entries, "the store has them as well"


def test_a_worse_model_is_refused_with_the_table_and_becomes_challenger(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.promote(stage.good)
    argv = stage.command("promote", "--run", stage.poor, "--shards", stage.shards)
    assert main([*argv, "--json"]) == 6
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["code"] == 6
    assert "bits per dimension: needed" in document["error"]["message"]
    assert "the champion stays version 1" in document["error"]["message"]
    (bits,) = [rule for rule in document["rules"] if rule["rule"] == "bits per dimension"]
    assert not bits["passed"]
    assert bits["got"].startswith("gain -")
    assert (document["version"], document["changed"]) == (2, False)
    assert stage.aliases == {"champion": 1, "challenger": 2}
    assert main([*argv, "--policy", "/nowhere.toml"]) == 2
    assert main(argv) == 6
    printed = capsys.readouterr()
    assert "NO" in printed.out
    assert "is refused" in printed.err
    refusals = [e for e in audit.read(stage.workspace) if e.kind == "refusal"]
    assert [(e.version, e.champion, e.state) for e in refusals] == [(2, 1, "done")] * 2


def test_forcing_needs_a_reason_and_is_written_down(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.promote(stage.good)
    argv = stage.command("promote", "--run", stage.poor, "--shards", stage.shards)
    assert main([*argv, "--force"]) == 2
    assert main([*argv, "--reason", "because"]) == 2
    assert "--force and --reason belong together" in capsys.readouterr().err
    assert main([*argv, "--force", "--reason", "wrong photos", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["changed"], done["forced"]) == (True, True)
    assert done["verdict"].startswith("forced (wrong photos) although refused: bits per dimension")
    assert stage.aliases == {"champion": 2, "previous": 1}
    last = audit.read(stage.workspace)[-1]
    assert (last.kind, last.forced, last.reason) == ("promotion", True, "wrong photos")
    assert not all(rule["passed"] for rule in last.rules)


def test_a_dry_run_judges_and_changes_nothing(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Path(stage.workspace.root) / "mlflow.db"
    before = database.read_bytes()
    argv = stage.command("promote", "--run", stage.good, "--shards", stage.shards, "--dry-run")
    assert main(argv) == 0
    assert f"run {stage.good} would be promoted" in capsys.readouterr().out
    assert not audit.registry_folder(stage.workspace).exists()
    assert database.read_bytes() == before
    stage.promote(stage.good)
    before = database.read_bytes()
    assert (
        main(stage.command("promote", "--run", stage.poor, "--shards", stage.shards, "--dry-run"))
        == 6
    )
    assert main(stage.command("rollback", "--dry-run")) == 5
    assert database.read_bytes() == before


def test_an_unexpected_champion_is_a_conflict(stage: Stage) -> None:
    with pytest.raises(ConflictError, match="@champion is not set, expected version 3"):
        stage.promote(stage.good, expected=3)
    stage.promote(stage.good, expected=0)
    with pytest.raises(ConflictError, match="@champion is version 1, expected none"):
        stage.promote(stage.poor, expected=0)
    with pytest.raises(ConflictError, match="@champion is version 1, expected version 2"):
        rollback(stage.workspace, expected=2)
    assert stage.aliases == {"champion": 1}


def test_rollbacks_go_further_back_and_never_forward(stage: Stage, tmp_path: Path) -> None:
    model, config = load_model(find_model(stage.workspace, stage.poor).folder)
    run = open_run(stage.workspace, "train", "third", "train/third")
    assert run.close("FINISHED", timeout_s=60.0)
    save_model(model, config, tmp_path / "third", metadata={"note": "the same weights"})
    connect(stage.workspace).log_artifacts(run.run_id, str(tmp_path / "third"), "model")
    for run_id in (stage.poor, stage.good, run.run_id):
        stage.promote(run_id, forced_because="to have three")
    assert stage.aliases == {"champion": 3, "previous": 2}
    rollback(stage.workspace)
    assert stage.aliases == {"champion": 2, "previous": 1}
    rollback(stage.workspace)
    assert stage.aliases == {"champion": 1}
    stage.promote("2")
    assert stage.aliases == {"champion": 2, "previous": 1}, "a version can be promoted as well"


def test_people_decide_if_the_policy_asks_them(stage: Stage) -> None:
    stage.promote(stage.poor)
    policy = PromotionPolicy(min_human_preference=0.55)
    with pytest.raises(GateRefused, match="human preference: .* got human/preference is missing"):
        stage.promote(stage.good, policy=policy)
    connect(stage.workspace).log_metric(stage.good, "human/preference", 0.6)
    assert stage.promote("@challenger", policy=policy).changed
    assert stage.aliases == {"champion": 2, "previous": 1}, "it is no challenger any longer"


def test_too_strict_a_policy_is_met_by_no_first_champion(stage: Stage) -> None:
    with pytest.raises(GateRefused, match=f"got {TEST_PHOTOS}; there is no champion"):
        stage.promote(stage.good, policy=PromotionPolicy(min_photos=TEST_PHOTOS + 1))
    assert champion(stage.workspace) is None
    assert stage.aliases == {"challenger": 1}


def test_a_model_that_is_no_number_is_refused(stage: Stage, tmp_path: Path) -> None:
    model, config = load_model(find_model(stage.workspace, stage.good).folder)
    with torch.no_grad():
        next(model.decoder.parameters()).fill_(float("nan"))
    run = open_run(stage.workspace, "train", "nan", "train/nan")
    assert run.close("FINISHED", timeout_s=60.0)
    save_model(model, config, tmp_path / "nan")
    connect(stage.workspace).log_artifacts(run.run_id, str(tmp_path / "nan"), "model")
    for force in ("", "whatever it takes"):
        with pytest.raises(
            GateRefused, match=r"finite output: .* logits are not finite"
        ) as refused:
            stage.promote(run.run_id, forced_because=force)
    assert [rule["passed"] for rule in refused.value.data["rules"]] == [False]
    assert stage.aliases == {}, "nothing that cannot paint is registered, not even by force"


def test_a_champion_that_cannot_be_measured_keeps_nobody_out_for_ever(stage: Stage) -> None:
    stage.promote(stage.poor)
    weights = next(Path(stage.workspace.artifacts).glob(f"**/{stage.poor}/**/{WEIGHTS}"))
    whole = weights.read_bytes()
    cached = find_model(stage.workspace, "@champion").folder
    shutil.rmtree(cached)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(GateRefused, match=r"champion measured: .*") as refused:
            stage.promote(stage.good)
        assert refused.value.exit_code == 6
        assert stage.aliases == {"champion": 1, "challenger": 2}
        forced = stage.promote(stage.good, forced_because="the champion's files are damaged")
    finally:
        weights.write_bytes(whole)
    assert forced.changed
    assert forced.forced
    assert stage.aliases == {"champion": 2, "previous": 1}


def test_a_refusal_that_was_cut_short_is_written_down_by_the_next_command(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.promote(stage.good)

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr("tintlab.tracking.moves._tag", die)
        with pytest.raises(Killed):
            stage.promote(stage.poor)
    assert [e.state for e in audit.read(stage.workspace)] == ["done", "intended"]
    with moving(stage.workspace):
        pass
    assert [(e.kind, e.state) for e in audit.read(stage.workspace)] == [
        ("promotion", "done"),
        ("refusal", "done"),
    ]
    entries = history(registered(stage.workspace))
    assert [entry.kind for entry in entries] == ["promotion", "refusal"]


def test_what_is_said_of_the_champion_itself(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.promote(stage.good)
    for dry in ([], ["--dry-run"]):
        argv = stage.command("promote", "--run", stage.good, "--shards", stage.shards, *dry)
        assert main(argv) == 0
        said = capsys.readouterr().out
        assert "@champion stays version 1: this model is the champion already" in said
        assert ("next: tintlab colorize" in said) is not bool(dry)


class Killed(BaseException):
    """What ends a process ends the call."""


@pytest.mark.parametrize(
    ("step", "moved"),
    [
        ("intent written", False),
        ("@previous set", False),
        ("@champion set", True),
        ("tagged", True),
    ],
)
def test_what_was_interrupted_is_finished_or_undone_by_the_next_command(
    stage: Stage, step: str, moved: bool
) -> None:
    def kill(done: str) -> None:
        if done == step:
            raise Killed

    stage.promote(stage.poor)
    with pytest.raises(Killed):
        stage.promote(stage.good, on_step=kill)
    assert stage.aliases["champion"] == (2 if moved else 1)
    with moving(stage.workspace) as ended:
        assert ended is not None
        assert ended.state == ("done" if moved else "abandoned")
    if moved:
        assert stage.aliases == {"champion": 2, "previous": 1}
    else:
        assert stage.aliases == {"champion": 1, "challenger": 2}
    with moving(stage.workspace) as ended:
        assert ended is None
    assert stage.promote(stage.good).changed is not moved
    assert stage.aliases == {"champion": 2, "previous": 1}


def test_an_interrupted_rollback_is_finished_and_not_done_twice(stage: Stage) -> None:
    def kill(done: str) -> None:
        if done == "@champion set":
            raise Killed

    for run_id in (stage.poor, stage.good):
        stage.promote(run_id)
    with pytest.raises(Killed):
        rollback(stage.workspace, on_step=kill)
    assert stage.aliases == {"champion": 1, "previous": 1}
    done = rollback(stage.workspace)
    assert (done.version, done.champion) == (1, 2)
    assert "finished by the next command" in done.note
    assert stage.aliases == {"champion": 1}


def test_a_changed_byte_keeps_a_version_from_coming_back(stage: Stage) -> None:
    for run_id in (stage.poor, stage.good):
        stage.promote(run_id)
    folder = find_model(stage.workspace, "@previous").folder
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(IntegrityError, match="model.safetensors is damaged or was changed"):
            rollback(stage.workspace)
    finally:
        weights.write_bytes(whole)
    assert stage.aliases == {"champion": 2, "previous": 1}


def test_a_torn_or_damaged_line_of_the_log_costs_no_other(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.promote(stage.good)
    file = audit.log_file(stage.workspace)
    whole = file.read_bytes()
    file.write_bytes(whole + whole.splitlines(keepends=True)[0][:40])
    with pytest.raises(GateRefused):
        stage.promote(stage.poor)
    assert file.read_bytes().startswith(whole)
    assert [e.kind for e in audit.read(stage.workspace)] == ["promotion", "refusal"]
    assert caplog.text == ""
    file.write_bytes(file.read_bytes().replace(b'"refusal"', b'"refusaL"'))
    assert [e.kind for e in audit.read(stage.workspace)] == ["promotion"]
    assert "line 3 of" in caplog.text


def test_the_table_of_models_says_where_each_came_from(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(stage.command("models")) == 0
    assert "nothing is registered yet" in capsys.readouterr().out
    for run_id in (stage.poor, stage.good):
        stage.promote(run_id)
    assert main(stage.command("models", "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    newest, oldest = document["versions"]
    assert (newest["version"], newest["aliases"]) == (2, ["champion"])
    assert (oldest["version"], oldest["aliases"]) == (1, ["previous"])
    from_run = newest["lineage"]
    assert (from_run["run_id"], from_run["run_name"]) == (stage.good, "good")
    assert from_run["photos"] == {"train": 24, "val": 4, "test": 32}
    assert len(from_run["data"]) == 64
    assert 0 < from_run["test_bits"] < oldest["lineage"]["test_bits"]
    assert [event["version"] for event in document["history"]] == [1, 2]
    assert main(stage.command("models", "--history")) == 0
    text = capsys.readouterr().out
    assert "@champion" in text
    assert text.count("promotion") == 2


def test_the_card_says_what_is_known_of_the_model(stage: Stage) -> None:
    stage.promote(stage.good)
    client = connect(stage.workspace)
    card = client.get_model_version("colorizer", "1").description
    assert len(card) <= 5000
    for said in (stage.good, "24 train, 4 val, 32 test", "| `bits_per_dim` |", "## Limits", "seed"):
        assert said in card
    (row,) = [line for line in card.splitlines() if line.startswith("| `bits_per_dim`")]
    mean, ends = row.split("|")[2:4]
    low, _, high = ends.split()
    assert float(low) < float(mean) < float(high)
    file = client.download_artifacts(stage.good, "model/model_card.md")
    assert Path(file).read_text() == card


def test_a_champion_that_was_used_is_found_while_the_registry_is_away(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.promote(stage.good)
    assert find_model(stage.workspace, "@champion").cached is None

    def silent(_: Workspace) -> MlflowClient:
        raise MlflowException("Connection refused")

    monkeypatch.setattr(store, "connect", silent)
    found = find_model(stage.workspace, "@champion")
    assert (found.version, found.run_id) == (1, stage.good)
    assert found.cached is not None
    assert f"{stage.workspace.tracking_uri}: Connection refused" in found.cached
    assert "using version 1, which @champion was" in found.cached
    load_model(found.folder)
    with pytest.raises(EnvironmentFault, match="Connection refused"):
        find_model(stage.workspace, "@champion", offline_ok=False)
    with pytest.raises(EnvironmentFault, match="Connection refused"):
        find_model(stage.workspace, "@never")
    with pytest.raises(EnvironmentFault, match="Connection refused"):
        stage.promote(stage.good)


def test_what_cannot_be_promoted_is_said_in_a_line(stage: Stage, tmp_path: Path) -> None:
    run = open_run(stage.workspace, "train", "empty", "train/empty")
    assert run.close("FAILED", timeout_s=60.0)
    with pytest.raises(ConfigError, match=r"^run .* \(FAILED\) has no model"):
        stage.promote(run.run_id)
    with pytest.raises(ConfigError, match="^no run, version, alias or folder 'nope'"):
        stage.promote("nope")
    with pytest.raises(ConfigError, match="colorizer has no version 9"):
        stage.promote("9")
    with pytest.raises(ConfigError, match="is a folder, of which nobody knows"):
        stage.promote(str(find_model(stage.workspace, stage.good).folder))
    stage.promote(stage.good)
    with pytest.raises(EnvironmentFault, match="@champoin of colorizer is not set .* @champion$"):
        find_model(stage.workspace, "@champoin")


def test_mlflow_calls_the_champion_by_its_signature(stage: Stage, tmp_path: Path) -> None:
    """In a process of its own, as a user does; our own loader obeys no switch of MLflow's."""
    stage.promote(stage.good)
    code = f"""if True:
        import mlflow, numpy as np
        from pathlib import Path
        from tintlab.model.artifact import load_model
        mlflow.set_tracking_uri({stage.workspace.tracking_uri!r})
        model = mlflow.pyfunc.load_model("models:/colorizer@champion")
        photos = np.arange(2 * 18 * 21 * 3, dtype=np.uint8).reshape(2, 18, 21, 3)
        same = [model.predict(photos, params={{"seed": 3, "temperature": 0.5}}) for _ in range(2)]
        other = model.predict(photos, params={{"seed": 4, "temperature": 0.5}})
        assert same[0].shape == photos.shape and same[0].dtype == np.uint8
        assert (same[0] == same[1]).all() and (same[0] != other).any()
        assert model.predict(model.metadata.load_input_example()).shape == (1, 16, 16, 3)
        try:
            model.predict(photos.astype(np.float32))
        except mlflow.exceptions.MlflowException as error:
            print("refused:", error)
        load_model(Path({str(find_model(stage.workspace, "@champion").folder)!r}))
    """
    environment = {
        **os.environ,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "refused:" in done.stdout
