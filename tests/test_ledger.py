"""The ledger is the record: what was asked is never lost, repeated or mixed up."""

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from sweep_records import METRIC, SPACE, finished, opened, reported, started

from tintlab.config import Workspace
from tintlab.errors import ConfigError, ConflictError, EnvironmentFault, IntegrityError
from tintlab.redaction import HIDDEN
from tintlab.settings import SweepConfig
from tintlab.sweep.ledger import Ledger
from tintlab.sweep.opening import _where_now
from tintlab.sweep.records import RunRecord, TrialRecord
from tintlab.sweep.space import SearchSpace, When
from tintlab.sweep.started import Started
from tintlab.sweep.study import storage_at

WIDER = {**SPACE.search, "model.depth": IntDistribution(1, 9)}
SEEDS = SPACE.model_copy(update={"replicates": 2})


class Killed(BaseException):
    """Nothing of a process runs after this."""


def drawn(ledger: Ledger) -> list[dict[str, object]]:
    return [trial.values for trial in ledger.record().trials]


def only(ledger: Ledger) -> TrialRecord:
    (trial,) = ledger.record().trials
    return trial


def run_of(ledger: Ledger, number: int, replicate: int = 0) -> RunRecord:
    return ledger.record().trials[number].runs[replicate]


def test_an_address_with_a_password_is_not_written_down(tmp_path: Path) -> None:
    secret = started(shards_uri="http://me:hunter2hunter2@host/shards")
    opened(tmp_path, secret)
    with closing(sqlite3.connect(tmp_path / "study.db")) as record:
        assert "hunter2hunter2" not in "".join(record.iterdump())
    uri = Started.of(secret.plain(), "x").shards_uri
    assert uri == f"http://{HIDDEN}@host/shards"
    with pytest.raises(ConfigError, match="give --shards once more"):
        _where_now(uri, Workspace.at(str(tmp_path)))


def test_a_trial_is_in_the_database_before_its_number_is_known(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    number = ledger.ask()
    again = opened(tmp_path)
    assert drawn(again) == [ledger.values(number)]
    assert again.due(0) == [0]
    assert again.interrupted() == []


def test_an_attempt_is_in_the_database_before_it_starts(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.begin(ledger.ask(), 0, seed=7)
    again = opened(tmp_path)
    run = run_of(again, 0)
    assert (run.identity, run.seed, run.attempts, run.state) == ("s/0/0", 7, 1, "running")
    assert again.interrupted() == [(0, 0)]
    assert again.due(0) == []
    assert again.begin(0, 0, seed=7).attempts == 2


def test_the_start_point_comes_first_and_once(tmp_path: Path) -> None:
    opened(tmp_path).ask()
    opened(tmp_path).ask()
    first, second = drawn(opened(tmp_path))
    assert first["model.depth"] == 5
    assert first != second


def test_an_exhaustive_sweep_asks_every_combination_once_also_when_continued(
    tmp_path: Path,
) -> None:
    space = SearchSpace(
        variants={"plain": {}, "deep": {"model.depth": 3}},
        search={"training.seed": IntDistribution(0, 2)},
        exhaustive=True,
    )
    for _ in range(space.trials()):
        opened(tmp_path, started(space)).ask()
    assert drawn(opened(tmp_path, started(space))) == space.first_points()


def test_a_continued_sweep_draws_what_an_uninterrupted_one_draws(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = opened(tmp_path / "a")
    for score in range(12):
        finished(whole, float(score))
    for score in range(12):  # another process for every trial
        finished(opened(tmp_path / "b"), float(score))
    assert drawn(whole) == drawn(opened(tmp_path / "b"))  # from the 11th on TPE looks at the others
    assert len({str(values) for values in drawn(whole)}) == 12


@pytest.mark.parametrize("writes", range(1, 7))
def test_a_process_that_dies_at_any_write_of_a_draw_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """A start point leaves one value to be drawn, the other trial two."""
    for name in "ab":
        (tmp_path / name).mkdir()
        finished(opened(tmp_path / name), 1.0)
    opened(tmp_path / "a").ask()
    dying, left = opened(tmp_path / "b"), [writes]

    def counted(name: str) -> None:
        real = getattr(dying._storage, name)

        def write(*args: object, **kwargs: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(dying._storage, name, write)

    for name in ("create_new_trial", "set_trial_param", "set_trial_user_attr"):
        counted(name)
    try:
        dying.ask()
    except Killed:
        pass
    else:
        assert writes > 4  # a trial, two values, and the mark that they are all
    monkeypatch.undo()
    again = opened(tmp_path / "b")
    if again.asked == 1:
        again.ask()
    assert drawn(again) == drawn(opened(tmp_path / "a"))
    assert again.study.trials[1].params == opened(tmp_path / "a").study.trials[1].params


def test_a_report_is_kept_once_and_costs_the_same_with_many_trials(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.ask()
    reported(ledger, 0, 0, 2.0, 1.5)
    ledger.report(0, 0, 20, {METRIC: 9.0}, "run0", 9.0)
    run = run_of(opened(tmp_path), 0)
    assert run.curve == {10: 2.0, 20: 1.5}
    assert (run.step, run.run_id, run.seconds, run.metrics) == (20, "run0", 2.0, {METRIC: 1.5})
    reads: list[str] = []
    for name in ("get_trial", "get_all_trials", "get_trial_id_from_study_id_trial_number"):
        setattr(ledger._storage, name, lambda *args, **kwargs: reads.append("read"))
    ledger.report(0, 0, 30, {METRIC: 1.0}, "run0", 3.0)
    ledger.end(0, 0, "complete", 4.0)
    assert reads == []
    assert opened(tmp_path).record().trials[0].score == 1.0


def test_a_process_that_dies_inside_a_report_loses_nothing_of_it(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    reported(ledger, ledger.ask(), 0, 2.0)

    def dies(*args: object) -> None:
        raise Killed

    ledger._storage.set_trial_intermediate_value = dies  # type: ignore[method-assign]
    with pytest.raises(Killed):
        ledger.report(0, 0, 20, {METRIC: 1.0}, "run0", 2.0)
    again = opened(tmp_path)
    again.report(0, 0, 20, {METRIC: 1.0}, "run0", 2.0)  # as its checkpoint repeats it
    again.end(0, 0, "complete")
    assert run_of(opened(tmp_path), 0).curve == {10: 2.0, 20: 1.0}
    assert only(opened(tmp_path)).score == 1.0


def test_a_score_is_the_mean_over_seeds_told_when_the_last_one_ended(tmp_path: Path) -> None:
    ledger = opened(tmp_path, started(SEEDS))
    number = ledger.ask()
    assert ledger.due(number) == [0, 1]
    reported(ledger, number, 0, 3.0, 1.0)
    ledger.end(number, 0, "complete")
    assert only(ledger).state == "running"
    reported(ledger, number, 1, 4.0, 2.0)
    ledger.end(number, 1, "complete")
    again = opened(tmp_path, started(SEEDS))
    trial = only(again)
    assert (trial.state, trial.score) == ("complete", 1.5)
    assert trial.spread == pytest.approx(0.5**0.5)
    assert [run.identity for run in trial.runs] == ["s/0/0", "s/0/1"]
    assert [run.curve for run in trial.runs] == [{10: 3.0, 20: 1.0}, {10: 4.0, 20: 2.0}]
    assert again.study.best_value == 1.5
    assert trial.best_run("min") == trial.runs[0]


def test_a_process_that_dies_before_it_tells_the_score_tells_it_next_time(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    reported(ledger, ledger.ask(), 0, 1.0)

    def dies(*args: object) -> None:
        raise Killed

    ledger._storage.set_trial_state_values = dies  # type: ignore[method-assign]
    with pytest.raises(Killed):
        ledger.end(0, 0, "complete")
    assert opened(tmp_path).study.trials[0].state == TrialState.COMPLETE


def test_the_first_seed_decides_whether_the_others_are_trained(tmp_path: Path) -> None:
    space = SEEDS.model_copy(update={"stopping": "asha", "replicates": 3})
    ledger = opened(tmp_path, started(space))
    good, bad = ledger.ask(), ledger.ask()
    assert ledger.due(good) == ledger.due(bad) == [0]
    reported(ledger, good, 0, 1.0)
    reported(ledger, bad, 0, 9.0)
    assert ledger.due(good) == []
    ledger.end(good, 0, "complete")
    ledger.end(bad, 0, "stopped")
    assert ledger.due(good) == [1, 2]
    assert ledger.due(bad) == []
    assert [trial.state for trial in ledger.record().trials] == ["running", "stopped"]


def test_a_failed_seed_fails_the_configuration_and_keeps_the_other_one(tmp_path: Path) -> None:
    ledger = opened(tmp_path, started(SEEDS))
    number = ledger.ask()
    reported(ledger, number, 0, 2.0)
    reported(ledger, number, 1, 3.0)
    ledger.end(number, 1, "failed", 5.0, "no memory", "out_of_memory")
    assert only(ledger).state == "running"  # the other one is still at it
    ledger.end(number, 0, "complete", 6.0)
    trial = only(opened(tmp_path, started(SEEDS)))
    assert (trial.state, trial.reason) == ("failed", "no memory")
    assert [(run.state, run.failure) for run in trial.runs] == [
        ("complete", None),
        ("failed", "out_of_memory"),
    ]
    assert trial.seconds == 11.0
    assert ledger.study.trials[0].state == TrialState.FAIL


def test_a_seed_beside_a_failed_one_is_not_trained_on_by_the_next_process(tmp_path: Path) -> None:
    ledger = opened(tmp_path, started(SEEDS))
    number = ledger.ask()
    reported(ledger, number, 0, 2.0)
    reported(ledger, number, 1, 3.0)
    ledger.end(number, 1, "failed", 1.0, "no memory", "out_of_memory")
    again = opened(tmp_path, started(SEEDS))
    assert again.interrupted() == []
    assert only(again).state == "failed"


def test_ranking_is_complete_then_stopped_then_running_then_failed(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    worse, better = finished(ledger, 2.0), finished(ledger, 1.0)
    stopped, failed, running = ledger.ask(), ledger.ask(), ledger.ask()
    reported(ledger, stopped, 0, 0.5)
    ledger.end(stopped, 0, "stopped")
    reported(ledger, failed, 0)
    ledger.end(failed, 0, "failed", 0.0, "out of memory", "out_of_memory")
    reported(ledger, running, 0, 0.1)
    record = opened(tmp_path).record()
    assert [t.number for t in record.ranked] == [better, worse, stopped, running, failed]
    assert record.best is not None
    assert (record.best.number, record.best.score) == (better, 1.0)
    ledger.end(better, 0, "failed")  # what was told first counts
    assert opened(tmp_path).record().ranked[0].state == "complete"


def test_all_objectives_are_told_and_the_first_one_leads(tmp_path: Path) -> None:
    space = SPACE.model_copy(update={"objectives": {"val/psnr_db": "max"}})
    ledger = opened(tmp_path, started(space))
    number = ledger.ask()
    ledger.begin(number, 0, seed=0)
    ledger.report(number, 0, 10, {METRIC: 1.0, "val/psnr_db": 20.0}, "r", 1.0)
    ledger.end(number, 0, "complete")
    again = opened(tmp_path, started(space))
    assert again.study.trials[0].values == [1.0, 20.0]
    assert again.record().objectives == {METRIC: "min", "val/psnr_db": "max"}
    assert only(again).score == 1.0


def test_a_run_that_the_store_names_late_is_remembered(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    number = ledger.ask()
    ledger.begin(number, 0, seed=0)
    ledger.report(number, 0, 10, {METRIC: 1.0}, "", 1.0)
    ledger.end(number, 0, "complete")
    ledger.found_run(number, 0, "late")
    assert run_of(ledger, number).run_id == run_of(opened(tmp_path), number).run_id == "late"


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (
            started(SPACE.model_copy(update={"search": WIDER})),
            "model.depth",
        ),
        (started(data_fingerprint="e"), "data set: d -> e"),
        (started(seed=1), "seed of the search: 0 -> 1"),
        (started(base=SPACE.base().replaced({"training.steps": 7})), "training.steps: 400 -> 7"),
        (started(code={"training/loop.py": "2"}), "code that trains: training/loop.py changed"),
    ],
)
def test_what_results_depend_on_is_refused_with_the_difference_or_accepted_and_recorded(
    tmp_path: Path, now: object, said: str
) -> None:
    finished(opened(tmp_path), 1.0)
    with pytest.raises(ConfigError, match=f"{said}.*--accept-changes"):
        opened(tmp_path, now)  # type: ignore[arg-type]
    assert opened(tmp_path).record().overrides == ()  # a refusal leaves no trace
    for _ in range(2):
        (line,) = opened(tmp_path, now, accept=True).record().overrides  # type: ignore[arg-type]
        assert said.split(".*")[0] in line
    opened(tmp_path, now)  # type: ignore[arg-type]


def test_how_and_how_long_it_is_computed_may_change(tmp_path: Path) -> None:
    opened(tmp_path)
    elsewhere = SPACE.base().replaced({"training.gpus_per_worker": 1.0})
    now = started(
        base=elsewhere,
        num_trials=9,
        trials_at_once=4,
        shards_uri="b",
        settings=SweepConfig(hours=1),
    )
    record = opened(tmp_path, now).record()
    assert (record.num_trials, record.shards_uri, record.overrides) == (9, "b", ())
    assert Ledger.existing(storage_at(f"sqlite:///{tmp_path}/study.db"), "s").started == now


def test_one_record_cannot_hold_two_ways_to_search_a_key(tmp_path: Path) -> None:
    finished(opened(tmp_path), 1.0)
    search = {**SPACE.search, "model.depth": CategoricalDistribution((1, 2))}
    space = SPACE.model_copy(update={"search": search, "start": ()})
    with pytest.raises(ConfigError, match="model.depth is searched in another way"):
        opened(tmp_path, started(space), accept=True)


def test_a_name_of_another_question_is_a_conflict_that_cannot_be_accepted(tmp_path: Path) -> None:
    opened(tmp_path)
    other = replace(started().question, name="widths", text="How wide?")
    with pytest.raises(ConflictError, match=r"'s' asks depths: How deep\? Give another --name"):
        opened(tmp_path, started(question=other), accept=True)


def test_a_record_of_another_version_is_refused_by_its_version(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.study.set_user_attr("sweep", {**started().plain(), "format": 9})
    with pytest.raises(IntegrityError, match="'s' has format 9, this tintlab reads 1"):
        opened(tmp_path)


def test_all_that_it_was_started_with_survives_the_record(tmp_path: Path) -> None:
    """Of which `--resume` makes a command; the words of a space have tests of their own."""
    space = SearchSpace(
        fixed={"training.steps": 30},
        variants={"a": {}, "b": {"model.depth": 2}},
        search={
            "schedule.kind": CategoricalDistribution(("cosine", "triangular")),
            "schedule.cycle_steps": When("schedule.kind", ("triangular",), IntDistribution(5, 9)),
            "schedule.peak_lr": FloatDistribution(1e-3, 1e-2, log=True),
        },
        start=({"schedule.kind": "cosine"},),
        num_trials=4,
        replicates=2,
        objectives={"val/psnr_db": "max"},
        reference={"schedule.kind": "cosine"},
    )
    now = started(space, settings=SweepConfig(hours=2.0, target=0.5))
    opened(tmp_path, now)
    assert Ledger.existing(storage_at(f"sqlite:///{tmp_path}/study.db"), "s").started == now


def test_time_and_reason_of_the_end_are_kept_over_processes(tmp_path: Path) -> None:
    opened(tmp_path).drive()(3.0)
    ledger = opened(tmp_path)
    ledger.drive()(4.0)
    ledger.conclude("enough")
    record = opened(tmp_path).record()
    assert (record.wall_s, record.ended) == (7.0, "enough")
    ledger.conclude(None)
    assert opened(tmp_path).record().ended is None


def test_a_sweep_that_is_not_there_is_told_from_those_that_are(tmp_path: Path) -> None:
    opened(tmp_path)
    storage = storage_at(f"sqlite:///{tmp_path}/study.db")
    with pytest.raises(ConfigError, match="no sweep 't'; there are: s"):
        Ledger.existing(storage, "t")


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        ("nonsense", ConfigError, "no database URL, got nonsense"),
        ("postgresql+nothing://u:hunter2hunter2@h/d", EnvironmentFault, "cannot be opened"),
        ("sqlite:////proc/nowhere/study.db", EnvironmentFault, "cannot be opened"),
    ],
)
def test_a_database_that_cannot_be_used_is_said_without_its_password(
    url: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as error:
        storage_at(url)
    assert "hunter2" not in str(error.value)


def test_a_database_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tintlab.sweep.study.ANSWER_S", 0.2)
    monkeypatch.setattr("tintlab.sweep.study.RDBStorage", lambda url, engine_kwargs: time.sleep(2))
    with pytest.raises(EnvironmentFault, match=r"//\[redacted\]@h/d did not answer in 0.2 s"):
        storage_at("postgresql://u:hunter2hunter2@h/d")


def test_optuna_itself_can_read_the_record(tmp_path: Path) -> None:
    """Its dashboard shows any study."""
    ledger = opened(tmp_path)
    finished(ledger, 1.0)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.db")
    assert study.best_trial.intermediate_values == {10: 2.0, 20: 1.0}
    assert study.best_trial.params == ledger.values(0)
