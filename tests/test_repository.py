"""The house itself: names that must not exist, directions, packaging, the cluster file."""

import os
import platform
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def test_platform_is_still_the_standard_library() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert platform.__file__ is not None
    assert Path(platform.__file__).parent == Path(sysconfig.get_path("stdlib"))


def test_stages_and_spaces_stay_thin_and_files_short() -> None:
    for folder, limit in (("pipelines", 60), ("search_spaces", 40), ("platform", 400)):
        for file in (ROOT / folder).rglob("*.py"):
            lines = len(file.read_text().splitlines())
            assert lines <= limit, f"{file.relative_to(ROOT)} has {lines} lines, limit {limit}"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["test"], *extras["bench"], *extras["fid"]]
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    for requirement in declared:
        name = re.split(r"[\[<>=~ ]", requirement)[0]
        assert f"| `{name}" in reasons, name


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().split()
    }
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        assert re.split(r"[\[<>=~ ]", requirement)[0].lower() in pinned, requirement


def test_the_wheel_gives_the_command(tmp_path: Path) -> None:
    """Built and installed away from the source, beside the packages that are already here."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    wheel = next(tmp_path.glob("tintlab-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "tintlab/config.py" in names
    assert "pipelines/__main__.py" in names
    assert "search_spaces/lr_cycles.py" in names
    assert not [name for name in names if name.startswith(("platform/", "tests/"))]

    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    site = next(home.glob("lib/python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    # Its dependencies are this environment's; the project itself must come from the wheel.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    say_where = "import tintlab, pipelines; print(tintlab.__file__, pipelines.__file__)"
    where = subprocess.run(
        [home / "bin" / "python", "-c", say_where],
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        text=True,
    )
    assert all(path.startswith(str(site)) for path in where.stdout.split()), where
    done = subprocess.run(
        [home / "bin" / "tintlab", "sweep", "lr_cycles", "--dry-run"],
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "12 trials" in done.stdout


def test_the_editable_install_gives_the_command(tmp_path: Path) -> None:
    command = Path(sys.executable).parent / "tintlab"
    done = subprocess.run([command, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("tintlab "), done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, on import of its autoscaler
def test_the_cluster_file_is_one_that_ray_accepts() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    prepared = prepare_config(cluster)
    validate_config(prepared)
    workers = cluster["available_node_types"]
    assert any(kind["resources"].get("GPU") for kind in workers.values())
    assert "-e PYTHONPATH=platform" in cluster["docker"]["run_options"]
    with pytest.raises(Exception, match="Additional properties"):
        validate_config({**prepared, "no_such_key": 1})
