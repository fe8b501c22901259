"""A question is found by its name or its file, and a file that is none says why."""

from pathlib import Path

import pytest

from tintlab.errors import ConfigError
from tintlab.sweep.question import load_space

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
