"""Which code trains: a hash of each file, so that a sweep is not continued with another one.

Comments, docstrings and layout do not count: what is hashed is the syntax tree without them.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import tintlab

PACKAGE = Path(tintlab.__file__).parent

ENTRIES = ("training/loop.py", "evaluation/validate.py")
"""What a training is; the rest is found from what these import."""

NOT_LEARNING = ("errors.py", "redaction.py")
"""Imported by everything, and in no way part of what a model learns."""


@cache
def code_that_trains() -> Mapping[str, str]:
    """File in the package -> hash, of all files that decide what a training computes."""
    hashes: dict[str, str] = {}
    waiting = [PACKAGE / entry for entry in ENTRIES]
    while waiting:
        file = waiting.pop()
        name = str(file.relative_to(PACKAGE))
        if name in hashes or name in NOT_LEARNING:
            continue
        tree = ast.parse(file.read_text())
        waiting += _imported(tree)
        hashes[name] = hashlib.sha256(_bare(tree).encode()).hexdigest()[:16]
    return dict(sorted(hashes.items()))


def hash_of(files: Mapping[str, str]) -> str:
    """One hash for all of them."""
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]


def code_difference(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The files that differ, on one line; None if none does."""
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if not changed:
        return None
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return f"code that trains: {', '.join(changed[:5])}{more} changed"


def _imported(tree: ast.Module) -> Iterator[Path]:
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        for name in names:
            package, *parts = name.split(".")
            file = PACKAGE.joinpath(*parts).with_suffix(".py")
            if package == PACKAGE.name and parts and file.is_file():
                yield file


def _bare(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # of an `if` expression it is no list
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
