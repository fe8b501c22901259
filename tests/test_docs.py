"""The pages a user reads: commands that parse, files that exist, a reference that is up to date."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import STAGES, main
from tintlab.config import ExperimentConfig
from tintlab.console import parse
from tintlab.sweep.question import load_space, space_names
from tintlab.sweep.space import SearchSpace

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """The arguments of every `tintlab ...` line in the pages' shell blocks."""
    lines = [
        line.strip()
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("tintlab ")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds what the README tells the user to save, and nothing else."""
    monkeypatch.chdir(tmp_path)
    (space,) = blocks(ROOT / "README.md", "python")
    (tmp_path / "ema.py").write_text(space)
    return tmp_path


def test_the_settings_page_is_what_the_settings_say() -> None:
    generator = ROOT / "docs" / "generate_configuration.py"
    done = subprocess.run([sys.executable, generator], capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / "configuration.md").read_text() == done.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own
@pytest.mark.parametrize("argv", commands(), ids=" ".join)
def test_a_command_of_the_pages_parses(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tintlab.tracking.reading.run_config", lambda *_: ExperimentConfig())
    assert argv[0] in STAGES
    module = importlib.import_module(f"pipelines.{argv[0].replace('-', '_')}")
    default = module.defaults(argv[1:]) if hasattr(module, "defaults") else None
    assert parse(module.Command, argv[1:], f"tintlab {argv[0]}", default)


@pytest.mark.parametrize("argv", [a for a in commands() if a[0] == "sweep"], ids=" ".join)
def test_a_sweep_of_the_pages_would_run(argv: list[str], elsewhere: Path) -> None:
    before = set(elsewhere.iterdir())
    assert main([*argv, "--dry-run"]) == 0
    assert {path for path in elsewhere.iterdir() if path.name != "__pycache__"} == before


def test_the_question_of_the_page_about_sweeps_can_be_asked(elsewhere: Path) -> None:
    (space,) = blocks(ROOT / "docs" / "sweeps.md", "python")
    (elsewhere / "mine.py").write_text(space)
    question = load_space("mine.py")
    question.check(question.space.base())
    assert question.text == "Do short cycles help a model with dropout?"


def test_the_page_about_sweeps_has_every_question_and_every_field() -> None:
    page = (ROOT / "docs" / "sweeps.md").read_text()
    for name in space_names():
        space = load_space(name).space
        assert f"| `{name}` | {space.trials()} × {space.replicates} |" in page
    for field in SearchSpace.model_fields:
        assert re.search(rf"^\| [^|]*`{field}`", page, re.MULTILINE), field


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in links:
        if not link.startswith(("http", "#")):
            assert (page.parent / link.split("#")[0]).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_into_a_page_has_its_heading(page: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)\s]*#[^)\s]+)\)", page.read_text()):
        file, heading = link.split("#")
        text = (page.parent / file if file else page).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert heading in [re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in headings]


def test_the_tree_of_the_readme_names_modules_that_exist() -> None:
    tree = next(block for block in blocks(ROOT / "README.md", "text") if "config.py" in block)
    for folder, names in re.findall(r"^    (\w+)/ +(.*)$", tree, re.MULTILINE):
        for name in re.sub(r" \(.*?\)", "", names).split(", "):
            place = ROOT / "platform" / "tintlab" / folder / name
            assert place.is_dir() or place.with_suffix(".py").exists(), name
