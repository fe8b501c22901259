"""The command as typed: help is quick, mistakes are one line with the documented exit code."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import search_spaces
from pipelines.__main__ import STAGES, main

MISTAKES = [
    (["train", "--model.dept", "3"], 2, "did you mean --model.depth"),
    (["train", "--model.depth", "0"], 2, "--model.depth must be greater than or equal to 1, got 0"),
    (["train", "--model.depth", "x"], 2, "--model.depth: invalid literal"),
    (["train", "--schedule.kind", "saw"], 2, "invalid choice 'saw'"),
    (["train", "--schedule.base-lr", "0.5"], 2, "base_lr must not exceed"),
    (["train", "--data.crop-px", "66"], 2, "use 64 or 68"),
    (["train", "--config", "nowhere.yaml"], 2, "cannot read config nowhere.yaml"),
    (["sweep"], 2, "no search space ''; there are"),
    (["sweep", "lr_cycle"], 2, "no search space 'lr_cycle'; did you mean lr_cycles?"),
    (["sweep", "lr_cycles", "--schedule.kind", "constant"], 2, "is searched by lr_cycles"),
    (["prepare"], 2, "no photos given"),
    (["prepare", "no/such/folder"], 3, "no/such/folder"),
    (["colorize"], 2, "no photos given"),
    (["promote"], 2, "--run is required"),
    (["promote", "--run", "x"], 3, "nothing was trained in"),
    (["evaluate", "--shards", "nowhere"], 3, "nowhere is not a data set"),
    (["paint"], 2, "no stage 'paint'; there are prepare"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run where a stray file would be seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("argv", "code", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    argv: list[str], code: int, message: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert printed.out == ""
    assert list(elsewhere.iterdir()) == []


def test_a_mistake_in_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--model.depth", "0", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == 2
    assert "model.depth" in error["message"]


def test_help_is_quick_and_names_every_stage() -> None:
    """0.5 s is promised; the median of three keeps a busy machine from deciding."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds.append(time.perf_counter() - start)
        assert all(name in done.stdout for name in STAGES)
    assert statistics.median(seconds) < 2.0


@pytest.mark.parametrize("stage", list(STAGES))
def test_the_options_of_a_stage_load_no_heavy_package(stage: str) -> None:
    code = (
        "import sys; from pipelines.__main__ import main\n"
        f"try: main([{stage!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "usage: tintlab" in done.stdout


def test_a_dry_run_of_a_sweep_changes_nothing(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "lr_cycles", "--dry-run", "--json", "--training.steps", "7"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["steps"] == 7
    assert plan["question"].endswith("?")
    assert list(elsewhere.iterdir()) == []


def test_every_space_is_listed_with_its_question(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["spaces", "--json"]) == 0
    spaces = {space["name"]: space for space in json.loads(capsys.readouterr().out)["spaces"]}
    files = Path(search_spaces.__file__).parent.glob("[a-z]*.py")
    assert sorted(spaces) == sorted(file.stem for file in files)
    assert all(space["question"].endswith("?") for space in spaces.values())
    asked = spaces["lr_cycles"]
    assert (asked["trials"], asked["replicates"]) == (12, 2)
    assert asked["searched"]["schedule.cycle_steps"].startswith("integer 50 to 200, step 50 when")
    assert main(["spaces"]) == 0
    assert spaces["depth"]["question"][:40] in capsys.readouterr().out
    assert list(elsewhere.iterdir()) == []


def test_an_unexpected_error_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pipelines.doctor

    def broken(command: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(pipelines.doctor, "main", broken)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == (
        "tintlab: unexpected RuntimeError: first (TINTLAB_DEBUG=1 shows where)\n"
    )
