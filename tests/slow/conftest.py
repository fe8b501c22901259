"""What the fault tests share: a place for the one figure that each of them measures."""

import json
import os
from pathlib import Path

import pytest
from figures import Figure


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """`figure(part, fault, measured, wanted)`: one row of docs/reliability.md.

    Printed, and added to the file that $RELIABILITY_FIGURES names, as `make reliability` does. Call
    it before the assertions, so that a figure that falls short is in the table as well.
    """

    def add(part: str, fault: str, measured: str, wanted: str) -> None:
        print(f"\n{part}: {fault}: {measured} (wanted: {wanted})")
        row = {"part": part, "fault": fault, "measured": measured, "wanted": wanted}
        test = request.node.nodeid.split("::", 1)
        row["test"] = f"{test[0].rsplit('/', 1)[-1]}::{request.node.originalname}"
        if file := os.environ.get("RELIABILITY_FIGURES"):
            with Path(file).open("a") as rows:
                rows.write(json.dumps(row) + "\n")

    return add
