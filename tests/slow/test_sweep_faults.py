"""A sweep that is killed, stopped, started twice or fed with trials that cannot succeed."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from figures import Figure
from sweep_process import (
    NAME,
    WINDOWS,
    attempts_of_finished,
    ended,
    faults,
    kill_group,
    mlflow_runs,
    options,
    outcome,
    random_kills,
    record,
    resume,
    start,
    wait_for_run,
)
from training_process import ROOT, data_set, descendants, environment

from tintlab.sweep.holder import held_beside

pytestmark = pytest.mark.slow

TRIALS, KILLS = 8, 20
NONE = {"duplicate": 0, "missing": 0, "re-run": 0, "runs too many or few": 0}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return data_set(tmp_path_factory.mktemp("data") / "shards", train=16, val=4)


@pytest.fixture(scope="module")
def uninterrupted(shards: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The sweep as it is when nothing happens, and how long it takes until its first run begins."""
    workspace = tmp_path_factory.mktemp("whole")
    process = start(options(workspace, shards))
    began_s = time.monotonic()
    wait_for_run(workspace, process)
    start_up_s = time.monotonic() - began_s
    ended(process)
    return workspace, start_up_s


def words(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in found.items())


@pytest.mark.timeout(1500)
def test_a_driver_that_is_killed_at_random_moments(
    uninterrupted: tuple[Path, float], shards: str, tmp_path: Path, figure: Figure
) -> None:
    whole, start_up_s = uninterrupted
    workspace = tmp_path / "killed"
    argv = options(workspace, shards)
    before = random_kills(workspace, argv, KILLS, seed=0, start_up_s=start_up_s)
    before.append(attempts_of_finished(workspace))
    ended(start(argv))
    found, same = faults(workspace, TRIALS, before), outcome(workspace) == outcome(whole)
    attempts = sum(attempts_of_finished(workspace).values())
    figure(
        "Sweep",
        f"{KILLS} SIGKILLs of the driver and its Ray at random moments of an {TRIALS}-trial sweep",
        f"{words(found)}; {attempts} attempts at {TRIALS} runs; ranking "
        f"{'equal to' if same else 'not'} an uninterrupted sweep's",
        "0, 0, 0, 0; equal",
    )
    assert found == NONE
    assert same
    assert attempts > TRIALS  # kills did hit runs


@pytest.mark.timeout(900)
def test_a_driver_that_dies_in_each_window(
    uninterrupted: tuple[Path, float], shards: str, tmp_path: Path, figure: Figure
) -> None:
    """One after the other in the same sweep, at its trials 0, 1, 2 and 3."""
    workspace = tmp_path / "windows"
    argv, before = options(workspace, shards), []
    for number, window in enumerate(WINDOWS):
        before.append(attempts_of_finished(workspace))
        process = start(argv, dies=(window, number))
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, window
    before.append(attempts_of_finished(workspace))
    ended(start(argv))
    found = faults(workspace, TRIALS, before)
    same = outcome(workspace) == outcome(uninterrupted[0])
    figure(
        "Sweep",
        f"killed {', '.join(WINDOWS)}",
        f"{words(found)}; ranking {'equal' if same else 'differs'}",
        "0, 0, 0, 0; equal",
    )
    assert found == NONE
    assert same


@pytest.mark.timeout(600)
def test_two_that_go_on_at_once_and_a_holder_that_died(
    shards: str, tmp_path: Path, figure: Figure
) -> None:
    workspace = tmp_path / "twice"
    argv = options(workspace, shards, steps=100_000)
    first = start(argv)
    wait_for_run(workspace, first)
    second = ended(start(resume(workspace)), code=5)["error"]["message"]
    assert first.poll() is None
    kill_group(first)
    began_s = time.monotonic()
    with held_beside(workspace / "study.db", NAME):
        waited_s = time.monotonic() - began_s
    named = f"process {first.pid} on " in second
    figure(
        "Sweep",
        "two `tintlab sweep` of one name at once; then the holder is killed",
        f"one proceeds, the other exits 5 {'naming it' if named else 'without its name'}; the dead "
        f"holder's lock is free after {waited_s:.2f} s",
        "exit 5 naming the holder; under 2 s",
    )
    assert named, second
    assert waited_s < 2.0


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("signals", "number", "code", "limit_s"), [
    (1, signal.SIGINT, 130, 10.0),
    (2, signal.SIGINT, 130, 2.0),
    (1, signal.SIGTERM, 143, 10.0),
], ids=["Ctrl-C", "Ctrl-C twice", "SIGTERM"])  # fmt: skip
def test_a_sweep_that_is_told_to_stop(
    shards: str,
    tmp_path: Path,
    figure: Figure,
    signals: int,
    number: int,
    code: int,
    limit_s: float,
) -> None:
    """Ctrl-C goes to the whole process group, as a terminal sends it, SIGTERM to the command."""
    workspace = tmp_path / "stopped"
    argv = options(workspace, shards, steps=400, every=100)
    argv += ["--num-trials", "2"]
    process = start(argv)
    wait_for_run(workspace, process, reports=1)
    send = os.killpg if number == signal.SIGINT else os.kill
    send(process.pid, number)
    began_s = time.monotonic()
    if signals == 2:
        time.sleep(0.3)
        began_s = time.monotonic()
        send(process.pid, number)
    process.communicate(timeout=120)
    took_s = time.monotonic() - began_s
    statuses = mlflow_runs(workspace)
    kept = sorted(path.parent.name for path in workspace.glob("checkpoints/*/step-*/manifest.json"))
    before = [attempts_of_finished(workspace)]
    ended(start(resume(workspace)))
    found = faults(workspace, 2, before)
    newest = kept[-1].removeprefix("step-").lstrip("0")
    figure(
        "Sweep",
        f"{signal.Signals(number).name}, {'twice' if signals == 2 else 'once'}",
        f"exit {process.returncode} after {took_s:.1f} s, last checkpoint at step {newest}; "
        f"continued: {words(found)}",
        f"exit {code} within {limit_s:g} s; 0, 0, 0, 0",
    )
    assert process.returncode == code
    assert took_s <= limit_s
    assert found == NONE
    if signals == 1:
        assert statuses == {f"{NAME}/0/0": ["KILLED"]}
        assert int(newest) % 100  # of the step it was stopped at, not of a validation


@pytest.mark.timeout(600)
def test_a_sweep_goes_on_only_as_it_began(shards: str, tmp_path: Path, figure: Figure) -> None:
    """In processes of their own; the changed code is a copy of ours with one constant changed."""
    workspace = tmp_path / "changed"
    argv = options(workspace, shards, steps=40, every=20)
    ended(start([*argv, "--num-trials", "1"]))
    again = [*resume(workspace), "--num-trials", "2"]
    space, code = workspace / "rates.py", tmp_path / "code"
    shutil.copytree(ROOT / "platform", code, ignore=shutil.ignore_patterns("__pycache__"))
    loop = code / "tintlab" / "training" / "optimizer.py"
    loop.write_text(loop.read_text() + "\nCHANGED = 1\n")
    path = f"{code}{os.pathsep}{environment()['PYTHONPATH']}"
    other = data_set(tmp_path / "other", train=17, val=4)
    as_it_was = space.read_text()
    space.write_text(as_it_was.replace("2e-2", "3e-2"))
    said = {"space": ended(start(again), code=2)}
    space.write_text(as_it_was)
    said["data set"] = ended(start([*again, "--shards", other]), code=2)
    said["a setting"] = ended(start([*again, "--model.depth", "2"]), code=2)
    said["code"] = ended(start(again, PYTHONPATH=path), code=2)
    named = {
        "space": "schedule.peak_lr: float 0.0001 to 0.02, log -> float 0.0001 to 0.03, log",
        "data set": "data set: ",
        "a setting": "model.depth: 1 -> 2",
        "code": "code that trains: ",
    }
    messages = {what: each["error"]["message"] for what, each in said.items()}
    found = [what for what, each in messages.items() if named[what] in each]
    accepted = ended(start([*again, "--accept-changes"], PYTHONPATH=path))
    figure(
        "Sweep",
        f"continued with another {', '.join(said)}",
        f"exit 2 naming the difference, {len(found)} of {len(said)}; with --accept-changes "
        f"{len(accepted['overrides'])} recorded",
        f"{len(said)} of {len(said)}; 1",
    )
    assert found == list(said), messages
    assert len(accepted["overrides"]) == 1


FAILING = '''"""What can go wrong?"""
from tintlab.sweep.space import SearchSpace
SPACE = SearchSpace(
    fixed={"data.crop_px": 16, "model.depth": 1},
    variants={
        "sound": {},
        "always": {"data.crop_px": 400},
        "not_a_number": {
            "schedule.peak_lr": 1.0, "schedule.kind": "constant", "model.depth": 8,
            "optimizer.clip_norm": 1e30, "model.encoder_norm": "none",
        },
        "memory": {"model.dropout": 0.5},
        "sound_too": {"model.dropout": 0.1},
        "sound_as_well": {"model.dropout": 0.2},
        "and_this": {"model.dropout": 0.3},
    },
    exhaustive=True,
    stopping="none",
)
'''


@pytest.mark.timeout(600)
def test_trials_that_cannot_succeed(shards: str, tmp_path: Path, figure: Figure) -> None:
    workspace = tmp_path / "failing"
    argv = options(workspace, shards, steps=40, every=20)
    for searched in ("--model.depth", "--data.crop-px"):  # the space fixes them, too
        at = argv.index(searched)
        del argv[at : at + 2]
    (workspace / "rates.py").write_text(FAILING)
    path = f"{Path(__file__).parent / 'no_memory'}{os.pathsep}{environment()['PYTHONPATH']}"
    result = ended(start(argv, PYTHONPATH=path), code=4)
    failed = {
        trial["values"]["variant"]: (trial["runs"][0]["failure"], trial["attempts"])
        for trial in result["trials"]
        if trial["state"] == "failed"
    }
    complete = sum(trial["state"] == "complete" for trial in result["trials"])
    reasons = {trial["values"]["variant"]: trial["reason"] for trial in result["trials"]}
    statuses = sorted(status for found in mlflow_runs(workspace).values() for status in found)
    figure(
        "Sweep",
        "a trial that always fails, one that diverges and one without memory in one sweep",
        f"exit 4; {complete} of 4 others complete; "
        + "; ".join(f"{name}: {kind}, {tries} try" for name, (kind, tries) in failed.items()),
        "exit 4; 4 of 4; each classed, none tried again",
    )
    assert failed == {
        "always": ("settings", 1),
        "not_a_number": ("non_finite", 1),
        "memory": ("out_of_memory", 1),
    }
    assert complete == 4
    assert "crop_px=400 is larger" in reasons["always"]
    assert "training diverged at step" in reasons["not_a_number"]
    assert "training.accumulation" in reasons["memory"]  # what to change
    assert statuses == ["FAILED"] * 3 + ["FINISHED"] * 4


@pytest.mark.timeout(600)
def test_a_worker_process_that_is_killed_is_tried_again(
    shards: str, tmp_path: Path, figure: Figure
) -> None:
    """Its process, not the driver: what is outside of a trial is not its failure."""
    workspace = tmp_path / "infrastructure"
    process = start([*options(workspace, shards, steps=400), "--num-trials", "2"])
    wait_for_run(workspace, process, reports=1)
    (victim,) = descendants(process.pid, "ImplicitFunc")
    os.kill(victim, signal.SIGKILL)
    result = ended(process)
    found = faults(workspace, 2, [{}])
    attempts = {trial["number"]: trial["attempts"] for trial in result["trials"]}
    figure(
        "Sweep",
        "SIGKILL of the process that trains a trial",
        f"{words(found)}; trial 0 took {attempts[0]} attempts; exit 0",
        "0, 0, 0, 0; 2 attempts",
    )
    assert found == NONE
    assert attempts == {0: 2, 1: 1}


@pytest.mark.timeout(600)
def test_the_hours_of_a_budget(shards: str, tmp_path: Path, figure: Figure) -> None:
    workspace = tmp_path / "budget"
    argv = options(workspace, shards, steps=100_000, every=100)
    hours = 40 / 3600
    ended(start([*argv, "--sweep.hours", f"{hours}"]), code=8)
    found = record(workspace)
    assert found is not None
    (trial,) = found.trials
    (run,) = trial.runs
    interval_s = run.seconds / max(1, len(run.curve))
    over_s = found.wall_s - 40
    figure(
        "Sweep",
        "`--sweep.hours` that end in the middle of a trial",
        f"exit 8, {over_s:.1f} s over; one report takes {interval_s:.1f} s; the trial is kept "
        f"{'to go on' if run.state == 'running' else run.state}",
        "exit 8; at most one report interval, and the look at the clock each second",
    )
    assert run.state == "running"
    assert over_s <= interval_s + 15  # the processes' end is the driver's time as well
    assert mlflow_runs(workspace) == {f"{NAME}/0/0": ["KILLED"]}


@pytest.mark.timeout(900)
def test_trials_of_two_workers(shards: str, tmp_path: Path, figure: Figure) -> None:
    """Killed once in between; each has a TorchTrainer of its own inside its Tune trial."""
    workspace = tmp_path / "workers"
    argv = [*options(workspace, shards, steps=120, every=20), "--num-trials", "2"]
    argv += ["--training.workers", "2"]
    process = start(argv)
    wait_for_run(workspace, process, reports=1)
    kill_group(process)
    before = [attempts_of_finished(workspace)]
    began_s = time.monotonic()
    result = ended(start(argv))
    took_s = time.monotonic() - began_s
    found = faults(workspace, 2, before)
    states = [trial["state"] for trial in result["trials"]]
    figure(
        "Sweep",
        "trials of two workers each, the driver killed in the first",
        f"{words(found)}; {', '.join(states)} in {took_s:.0f} s",
        "0, 0, 0, 0",
    )
    assert found == NONE
    assert states[0] == "complete"
    curve = list(result["trials"][0]["runs"][0]["curve"])
    assert curve == [str(step) for step in range(20, 121, 20)]
