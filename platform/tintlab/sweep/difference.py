"""A search space in words, and what changed between two of them, a line each."""

from collections.abc import Mapping
from typing import Any

_MISSING = object()


def in_words(entry: Mapping[str, Any]) -> str:
    """An entry of `SearchSpace.description()["search"]` for people.

    `float 0.001 to 0.008, log`, `integer 50 to 200, step 50`, `one of 'cosine', 'triangular'`, and
    for a conditional one `... when schedule.kind is 'triangular'`.
    """
    if "when" in entry:
        values = " or ".join(map(repr, entry["in"]))
        return f"{in_words(entry['distribution'])} when {entry['when']} is {values}"
    attributes = entry["attributes"]
    if "choices" in attributes:
        return f"one of {', '.join(map(repr, attributes['choices']))}"
    kind = "integer" if entry["name"] == "IntDistribution" else "float"
    usual_step = 1 if kind == "integer" else None
    step = attributes["step"]
    steps = "" if step == usual_step else f", step {step:g}"
    log = ", log" if attributes["log"] else ""
    return f"{kind} {attributes['low']:g} to {attributes['high']:g}{log}{steps}"


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two descriptions of a space, or two flat configurations; none if equal.

    `schedule.peak_lr: float 0.001 to 0.008, log -> float 0.001 to 0.02, log`,
    `model.depth is no longer searched`, `training.steps: 400 -> 300`.
    """
    lines = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key, _MISSING), now.get(key, _MISSING)
        if old == new:
            continue
        if key == "search":
            lines += _searched(_mapping(old), _mapping(new))
        elif isinstance(old, Mapping) or isinstance(new, Mapping):
            lines += _nested(key, _mapping(old), _mapping(new))
        else:
            lines.append(f"{key}: {_shown(old)} -> {_shown(new)}")
    return lines


def _searched(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    lines = []
    for key in dict.fromkeys([*before, *now]):
        if key not in now:
            lines.append(f"{key} is no longer searched (it was: {in_words(before[key])})")
        elif key not in before:
            lines.append(f"{key} is searched now: {in_words(now[key])}")
        elif before[key] != now[key]:
            lines.append(f"{key}: {in_words(before[key])} -> {in_words(now[key])}")
    if not lines and list(before) != list(now):
        lines.append(f"order of the keys: {', '.join(before)} -> {', '.join(now)}")
    return lines


def _nested(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    inner = difference(before, now)
    return [f"{name}: {line}" for line in inner]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _shown(value: object) -> str:
    return "nothing" if value is _MISSING else repr(value)
