"""What every benchmark shares: turns, medians, and the line that it prints."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def side_by_side() -> ModuleType:
    """The module as a benchmark imports it: benchmarks are scripts, not a package."""
    spec = spec_from_file_location("side_by_side", BENCHMARKS / "side_by_side.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_candidates_take_turns_and_their_medians_count(side_by_side: ModuleType) -> None:
    turns: list[str] = []

    def candidate(name: str, values: list[float]) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            turns.append(name)
            return {"pace": values.pop()}

        return measure

    found = side_by_side.interleaved(
        {
            "ours": candidate("ours", [5.0, 1.0, 2.0, 9.0, 3.0]),
            "theirs": candidate("theirs", [1.0, 1.0, 7.0, 1.0, 1.0]),
        }
    )
    assert turns == ["ours", "theirs"] * 5
    assert found == {"ours": {"pace": 3.0}, "theirs": {"pace": 1.0}}


def test_a_report_is_one_json_line_with_the_documented_keys(side_by_side: ModuleType) -> None:
    line = side_by_side.report(
        "nothing", {"images_per_s": 123.456, "n": 2}, {"x": {"y": 0.00012344}}, {"r": 2.0}, ("ray",)
    )
    assert "\n" not in line
    report = json.loads(line)
    assert list(report) == ["benchmark", "metrics", "baseline", "ratio", "machine"]
    assert report["metrics"] == {"images_per_s": 123.5, "n": 2}
    assert report["baseline"] == {"x": {"y": 0.0001234}}
    assert {"cpu", "cores", "memory_gb", "system", "python", "ray"} <= report["machine"].keys()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("loader", "crops_per_s"),
        ("prepare", "images_per_s"),
        ("tracking", "caller_us_per_point"),
        ("sweep_overhead", "seconds_per_trial"),
    ],
)
def test_a_benchmark_runs_and_prints_its_line_last(name: str, ratio: str) -> None:
    if name == "loader":
        pytest.importorskip("streaming", reason="pip install 'tintlab[bench]'")
        pytest.importorskip("webdataset", reason="pip install 'tintlab[bench]'")
    assert quick(name)["ratio"][ratio] > 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_hundredth_trial_costs_what_the_first_did() -> None:
    report = quick("sweep_scale")
    assert report["metrics"]["trials"] == 100
    assert report["ratio"]["last_over_first_tenth"] < 1.5  # ten trials each: the noise of ten
    assert report["metrics"]["report_s"] < 10


def quick(name: str) -> dict[str, Any]:
    """What a benchmark prints last when it is run with --quick."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    report: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    assert report["benchmark"] == name
    return report
