"""Promotions, raced or killed, in processes forked from one that has imported everything.

ROOT SHARDS: reads one JSON line for each race from standard input, and answers with one.

    {"promote": [RUN, ...], "kill_at": STEP or null}    promote these at the same moment, or kill
                                                        the first with SIGKILL at that step
    {"rollback": true, "kill_at": STEP or null}
    {"look": true}                                      aliases and audit log as they are

The parent never opens the store itself: SQLite connections do not survive a fork.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from tintlab.config import Workspace
from tintlab.errors import TintlabError
from tintlab.model.artifact import load_model
from tintlab.tracking import audit
from tintlab.tracking.models import find_model
from tintlab.tracking.moves import rollback
from tintlab.tracking.promotion import promote
from tintlab.tracking.registry import aliases


def forked(work: Callable[[], Any]) -> tuple[int, int]:
    """A child that does the work: its pid, and a pipe with the JSON of what it returns."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        code = 1
        try:
            result: Any = {"ok": work()}
            code = 0
        except TintlabError as error:
            result = {"error": str(error), "code": error.exit_code}
            code = error.exit_code
        except BaseException as error:
            result = {"error": f"{type(error).__name__}: {error}", "code": 1}
        with os.fdopen(write_end, "w") as stream:
            stream.write(json.dumps(result))
        os._exit(code)
    os.close(write_end)
    return pid, read_end


def joined(child: tuple[int, int]) -> dict[str, Any]:
    """What a child returned; `killed` if it was."""
    pid, read_end = child
    with os.fdopen(read_end) as stream:
        text = stream.read()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return {"killed": os.WTERMSIG(status)}
    found: dict[str, Any] = json.loads(text)
    return found


def killer(step: str | None) -> Callable[[str], None]:
    """Ends this process without a word when that step has just been done."""

    def reached(done: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def raced(workspace: Workspace, shards: str, run_id: str, at_s: float, step: str | None) -> Any:
    """Promote, beginning at that moment."""
    time.sleep(max(0.0, at_s - time.time()))
    return asdict(promote(workspace, run_id, shards, on_step=killer(step)))


def look(workspace: Workspace) -> dict[str, Any]:
    """Every alias, whose model must be whole, and the audit log."""
    held = aliases(workspace)
    for alias in held:
        load_model(find_model(workspace, f"@{alias}", offline_ok=False).folder)
    return {"aliases": held, "entries": [asdict(entry) for entry in audit.read(workspace)]}


def main(root: str, shards: str) -> None:
    torch.set_num_threads(1)
    workspace = Workspace.at(root)
    for line in sys.stdin:
        order = json.loads(line)
        step = order.get("kill_at")
        if "promote" in order:
            at_s = time.time() + 0.2
            works = [
                partial(raced, workspace, shards, run_id, at_s, step) for run_id in order["promote"]
            ]
        elif "rollback" in order:
            works = [partial(rolled_back, workspace, step)]
        else:
            works = [partial(look, workspace)]
        print(json.dumps([joined(child) for child in [forked(work) for work in works]]), flush=True)


def rolled_back(workspace: Workspace, step: str | None) -> Any:
    return asdict(rollback(workspace, on_step=killer(step)))


if __name__ == "__main__":
    main(*sys.argv[1:3])
