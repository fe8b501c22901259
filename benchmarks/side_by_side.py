"""How every benchmark measures and reports: candidates in turns, medians, one JSON line."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version

_CORES = len(os.sched_getaffinity(0))

ROUNDS = 5
"""Times everything is measured; the machine's moods fall on all candidates alike."""


def interleaved(
    candidates: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int = ROUNDS
) -> dict[str, dict[str, float]]:
    """Run every candidate once per round, in turns; the median of each figure it returns."""
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in candidates}
    for turn in range(1, rounds + 1):
        for name, measure in candidates.items():
            figures = measure()
            found[name].append(figures)
            shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
            show(f"round {turn} of {rounds}: {name}: {shown}")
    return {
        name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        for name, turns in found.items()
    }


def report(
    benchmark: str,
    metrics: Mapping[str, object],
    baseline: Mapping[str, object],
    ratio: Mapping[str, float],
    packages: tuple[str, ...] = (),
) -> str:
    """The line that a benchmark prints last; numbers with four significant digits."""
    line = {
        "benchmark": benchmark,
        "metrics": metrics,
        "baseline": baseline,
        "ratio": ratio,
        "machine": machine(packages),
    }
    return json.dumps(_rounded(line))


def machine(packages: tuple[str, ...] = ()) -> dict[str, object]:
    """What the figures were measured on: CPU, cores we may use, memory, versions."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def cores() -> int:
    """Cores that this process might use when it began; a benchmark may have pinned itself since."""
    return _CORES


def show(line: str) -> None:
    """Progress, beside the result."""
    print(line, file=sys.stderr, flush=True)


def _cpu() -> str:
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _rounded(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
