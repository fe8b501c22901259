"""A question is found by its name or its file, and a file that is none says why."""

from pathlib import Path

import pytest

from tintlab.command import base_experiment
from tintlab.config import ExperimentConfig
from tintlab.errors import ConfigError
from tintlab.sweep.question import load_space, named

SPACE = (
    '"""Does depth help?\n\nMore words."""\n'
    "from optuna.distributions import IntDistribution\n"
    "from tintlab.sweep.space import SearchSpace\n"
    'SPACE = SearchSpace(search={"model.depth": IntDistribution(1, 2)}, num_trials=2)\n'
)


def test_a_file_is_a_space_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(SPACE)
    question = load_space(str(file))
    assert (question.name, question.text) == ("mine", "Does depth help?")
    assert list(question.space.search) == ["model.depth"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import nothing_of_this_name\n", "fails on import: ModuleNotFoundError"),
        ("SPACE = (\n", "fails on import: SyntaxError"),
        (SPACE.replace("?", "."), "no question in its docstring"),
        (SPACE.replace("SPACE =", "SPICE ="), "has no SPACE = SearchSpace"),
        (SPACE.replace("num_trials=2", "num_trials=0"), "num_trials must be greater"),
        (SPACE.replace("num_trials=2", "replicates=0"), "replicates must be greater"),
        (SPACE.replace("num_trials=2", "sampler='best'"), "sampler must be 'tpe', 'gp'"),
        (SPACE.replace("IntDistribution(1, 2)", "IntDistribution(2, 1)"), "ValueError"),
        (SPACE.replace("IntDistribution(1, 2)", "3"), "search.model.depth"),
    ],
)
def test_a_file_that_is_no_space_says_why_on_one_line(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message) as refused:
        load_space(str(file))
    assert "mine" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_not_there_names_what_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no search space file .* known names: ablation, "):
        load_space(str(tmp_path / "absent.py"))
    with pytest.raises(ConfigError, match="no search space 'lr_cycle'; did you mean lr_cycles"):
        load_space("lr_cycle")
    with pytest.raises(ConfigError, match="no search space 'xyz'; there are ablation, "):
        load_space("xyz")


@pytest.mark.parametrize(
    "argv",
    [
        ["lr_cycles", "--dry-run"],
        ["--dry-run", "lr_cycles"],
        ["--workspace", "somewhere", "--json", "lr_cycles", "--seed", "-1"],
        ["--name=attention", "--training.activation_checkpointing", "lr_cycles"],
        ["--name", "attention", "--data.no-flip", "lr_cycles"],
    ],
)
def test_a_space_is_found_wherever_it_stands(argv: list[str]) -> None:
    name, base, own = named(argv)
    assert name == "lr_cycles"
    assert base == load_space("lr_cycles").space.base()
    assert {"model.depth", "schedule.kind"} <= set(own)


def test_a_command_line_without_a_space() -> None:
    assert named(["--resume=x", "--name", "lr_cycles"]) == ("", ExperimentConfig(), [])


def test_a_question_keeps_what_it_fixes_over_the_settings_of_a_run_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ExperimentConfig().replaced(
        {"model.depth": 9, "optimizer.weight_decay": 0.5, "schedule.peak_lr": 0.5}
    )
    monkeypatch.setattr("tintlab.tracking.reading.run_config", lambda place, run: before)
    _, base, own = named(["lr_cycles"])
    found = base_experiment(["lr_cycles", "--from-run", "x"], base, own).flat()
    assert found["optimizer.weight_decay"] == 0.5
    assert found["model.depth"] == base.model.depth
    assert found["schedule.peak_lr"] == base.schedule.peak_lr  # it is searched
    file = tmp_path / "settings.yaml"
    file.write_text("optimizer: {weight_decay: 0.25}")
    found = base_experiment(["lr_cycles", "--config", str(file)], base, own).flat()
    assert found == {**base.flat(), "optimizer.weight_decay": 0.25}
