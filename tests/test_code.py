"""A sweep is tied to the code that trains: to what it computes, not to how it is explained."""

from pathlib import Path

import pytest

import tintlab.sweep.code as code


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose loop imports its losses, and nothing else."""
    package = tmp_path / "tintlab"
    for folder in ("training", "evaluation"):
        (package / folder).mkdir(parents=True)
    (package / "training/loop.py").write_text(
        'from tintlab.training import losses\n"""Doc."""\nx = 1\n'
    )
    (package / "evaluation/validate.py").write_text("from tintlab.training.losses import y\n")
    (package / "training/losses.py").write_text("y = 2  # why\n")
    (package / "training/launcher.py").write_text("z = 3\n")
    monkeypatch.setattr(code, "PACKAGE", package)
    return package


def hashes() -> dict[str, str]:
    code.code_that_trains.cache_clear()
    found = dict(code.code_that_trains())
    code.code_that_trains.cache_clear()
    return found


def test_what_trains_is_what_the_loop_imports(package: Path) -> None:
    assert list(hashes()) == ["evaluation/validate.py", "training/loop.py", "training/losses.py"]


def test_words_and_layout_do_not_count_and_numbers_do(package: Path) -> None:
    before = hashes()
    (package / "training/losses.py").write_text('"""What they are."""\n\ny = (  2)\n')
    (package / "training/launcher.py").write_text("z = 4\n")
    assert code.code_difference(before, hashes()) is None
    (package / "training/losses.py").write_text("y = 2.5\n")
    difference = code.code_difference(before, hashes())
    assert difference == "code that trains: training/losses.py changed"
    assert code.hash_of(before) != code.hash_of(hashes())


def test_the_real_loop_and_model_are_among_it() -> None:
    code.code_that_trains.cache_clear()
    names = set(code.code_that_trains())
    assert {"training/loop.py", "model/decoder.py", "training/schedule.py"} <= names
    assert {"training/fit.py", "sweep/run.py", "errors.py"} & names == set()
