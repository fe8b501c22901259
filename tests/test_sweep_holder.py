"""One process runs a sweep; another one is told which, and a dead one is in nobody's way."""

import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from tintlab.errors import ConflictError
from tintlab.sweep.holder import LOST_AFTER_S, OWNER, OwnerRecord, held_beside, sqlite_file
from tintlab.sweep.study import storage_at

HOLDER = """
import sys, time
from pathlib import Path
from tintlab.sweep.holder import held_beside
with held_beside(Path(sys.argv[1]), "s"):
    print("held", flush=True)
    time.sleep(60)
"""


def study(folder: Path) -> optuna.Study:
    return optuna.create_study(
        storage=storage_at(f"sqlite:///{folder}/study.db"), study_name="s", load_if_exists=True
    )


def test_the_file_of_a_database_url() -> None:
    assert sqlite_file("sqlite:////a/study.db") == Path("/a/study.db")
    assert sqlite_file("sqlite+pysqlite:///b.db") == Path("b.db")
    assert sqlite_file("postgresql://host/sweeps") is None


def test_a_living_holder_is_named_and_a_dead_one_is_no_holder(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(ConflictError, match=f"'s' is being run by process {process.pid} on"),
            held_beside(file, "s"),
        ):
            pass
        with held_beside(file, "another"):
            pass
        process.kill()
    began_s = time.monotonic()
    with held_beside(file, "s"):
        assert time.monotonic() - began_s < 2.0


def test_the_record_names_a_living_holder_until_it_releases(tmp_path: Path) -> None:
    first, second = (OwnerRecord(study(tmp_path), wait=lambda s: None) for _ in range(2))
    first.take()
    with pytest.raises(ConflictError, match=r"'s' is being run by process \d+ on"):
        second.take()
    first.release()
    second.take()
    first.release()  # it is another's by now
    with pytest.raises(ConflictError, match="is being run by process"):
        first.take()


def test_a_holder_that_died_on_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    OwnerRecord(study(tmp_path), wait=lambda s: None).take()
    dead = {**study(tmp_path).user_attrs[OWNER], "started_s": 1.0}  # its process id is another's
    study(tmp_path).set_user_attr(OWNER, dead)
    waited: list[float] = []
    OwnerRecord(study(tmp_path), wait=waited.append).take()
    assert sum(waited) < 2.0


def test_a_holder_elsewhere_is_dead_when_its_counter_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    OwnerRecord(study(tmp_path), wait=lambda s: None).take()
    elsewhere = {**study(tmp_path).user_attrs[OWNER], "machine": "elsewhere"}
    study(tmp_path).set_user_attr(OWNER, elsewhere)
    now_s = [0.0]
    monkeypatch.setattr("tintlab.sweep.holder.time.monotonic", lambda: now_s[0])

    def passes(seconds: float) -> None:
        now_s[0] += seconds

    def lives(seconds: float) -> None:
        passes(seconds)
        study(tmp_path).set_user_attr(OWNER, {**elsewhere, "beats": now_s[0]})

    with pytest.raises(ConflictError, match="on elsewhere"):
        OwnerRecord(study(tmp_path), wait=lives).take()
    assert now_s[0] <= 2.0
    OwnerRecord(study(tmp_path), wait=passes).take()
    assert now_s[0] >= LOST_AFTER_S


def test_of_two_that_take_it_in_the_same_moment_one_stays(tmp_path: Path) -> None:
    other = OwnerRecord(study(tmp_path), wait=lambda s: None)
    with pytest.raises(ConflictError, match="is being run by"):
        OwnerRecord(study(tmp_path), wait=lambda s: other._write()).take()
    monotonic_s = time.monotonic()
    other._beaten_s = monotonic_s - 1e6
    other.beat()
    other.release()
