"""What a command says and how it ends: one result on stdout, the rest on stderr, one exit code."""

import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from io import StringIO
from types import FrameType
from typing import Any, NoReturn, TypeVar

from tintlab.errors import ConfigError, TintlabError
from tintlab.interrupts import Hurried
from tintlab.redaction import redacted, redacted_tree

Arguments = TypeVar("Arguments")


class Terminated(KeyboardInterrupt):
    """SIGTERM: libraries that let Ctrl-C through let this through, too."""


@dataclass(frozen=True)
class Result:
    """What a command found: `data` is the JSON document, `text` the same for a person."""

    data: dict[str, Any]
    text: str
    exit_code: int = field(default=0)
    stdout_taken: bool = field(default=False)
    """The command has written a picture to stdout; the text goes to stderr."""


def say(message: str) -> None:
    """One line of progress, on stderr."""
    print(redacted(message), file=sys.stderr, flush=True)


def parse(
    kind: type[Arguments], argv: Sequence[str], prog: str, default: Arguments | None = None
) -> Arguments:
    """Arguments of type `kind` from the command line.

    Args: default: values for everything the command line leaves out.
    Raises: ConfigError: one line that says what is wrong; SystemExit(0) after --help.
    """
    import tyro
    from pydantic import ValidationError

    from tintlab.config import first_problem

    settings = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    complaint = StringIO()
    try:
        with redirect_stderr(complaint):
            if default is None:
                return tyro.cli(kind, args=argv, prog=prog, config=settings)
            return tyro.cli(kind, args=argv, prog=prog, config=settings, default=default)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise ConfigError(_one_line(complaint.getvalue(), prog)) from None
    except ValidationError as error:  # a rule between sections; tyro lets these through
        raise ConfigError(first_problem(error)) from None


def _one_line(box: str, prog: str) -> str:
    """tyro's framed message as one line."""
    # Unicode on a terminal, ASCII in a pipe; the framed title and the rules are left out.
    rows = [row.strip("│╭╮╰╯|+ \n") for row in box.splitlines()]
    rows = [row for row in rows if row and not re.match(r"─|- |-+$", row)]
    rows = [row for row in rows if "full helptext" not in row]
    text = " ".join(rows)
    if "Required options" in box:
        missing = re.search(r"--[a-z][\w.-]*", text)
        return f"{missing[0] if missing else 'an option'} is required; see {prog} --help"
    ours = re.search(r"Value error, (?P<what>.*?) \[type=value_error", text)
    if ours:  # our own validators say what was got and what to do
        return ours["what"]
    refused = re.search(
        r"Error parsing (?:experiment\.)?(?P<section>\S+): \d+ validation errors? for \w+ "
        r"(?P<key>\S+) (?P<what>.*?) \[type=\w+, input_value=(?P<got>.*?), input_type",
        text,
    )
    if refused:
        what = refused["what"].replace("Input should", "must", 1)
        return f"--{refused['section']}.{refused['key']} {what}, got {refused['got']}"
    value = re.search(
        r"Error parsing (?P<flag>--\S+): (?P<what>.*?)(?: Argument helptext:|$)", text
    )
    if value:
        return f"{value['flag'].split('/')[0]}: {value['what']}; see {prog} --help"
    unknown = re.search(r"Unrecognized options: (?P<flags>.*?)(?: Perhaps you meant: (.*))?$", text)
    if unknown:
        flag = unknown["flags"].split(",")[0].split()[0]
        offered = re.findall(r"--[\w.-]+", unknown[2] or "")
        nearest = get_close_matches(flag, offered, n=1, cutoff=0.0)
        hint = f"did you mean {nearest[0]}?" if nearest else f"see {prog} --help"
        return f"unknown option {flag}; {hint}"
    return f"{text.split(':', 1)[-1].strip() if ':' in text else text}; see {prog} --help"


def run(command: Callable[[], Result], as_json: bool) -> int:
    """Run a command to its exit code; nothing escapes it as a traceback unless TINTLAB_DEBUG=1."""
    try:
        with _terminable():
            result = command()
    except TintlabError as error:
        found = Result(error.data, error.text)
        return _failed(str(error), error.exit_code, type(error).__name__, as_json, found)
    except Hurried as error:
        code = 143 if isinstance(error.__cause__, Terminated) else 130
        _failed("interrupted twice; the same command goes on", code, "Interrupted", as_json)
        _leave(code)
    except Terminated:
        return _failed("terminated; the same command goes on", 143, "Terminated", as_json)
    except KeyboardInterrupt:
        return _failed("interrupted; the same command goes on", 130, "Interrupted", as_json)
    except Exception as error:  # the outermost frame: whatever is left becomes one line
        from pydantic import ValidationError

        if isinstance(error, ValidationError):  # an option outside the range its setting has
            from tintlab.config import first_problem

            return _failed(first_problem(error), ConfigError.exit_code, "ConfigError", as_json)
        if os.environ.get("TINTLAB_DEBUG") == "1":
            say(traceback.format_exc())
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        message = f"unexpected {type(error).__name__}: {first} (TINTLAB_DEBUG=1 shows where)"
        return _failed(message, 1, type(error).__name__, as_json)
    if result.stdout_taken:
        say(result.text)
    elif as_json:
        print(json.dumps(redacted_tree(result.data)), flush=True)
    else:
        print(redacted(result.text), flush=True)
    return result.exit_code


def _leave(code: int) -> NoReturn:
    """End at once with all that this process has started, such as a Ray, which would take seconds
    to be asked."""
    import psutil

    sys.stderr.flush()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(code)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what must be cleared up is cleared up."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return

    def stop(signal_number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


NOTHING_FOUND = Result({}, "")


def _failed(
    message: str, code: int, kind: str, as_json: bool, found: Result = NOTHING_FOUND
) -> int:
    """Print why a command ended, and what it had found until then: one document as ever."""
    message = redacted(" ".join(message.split()))
    if as_json:
        error = {"code": code, "kind": kind, "message": message}
        print(json.dumps({"error": error, **redacted_tree(found.data)}), flush=True)
    else:
        if found.text:
            print(redacted(found.text), flush=True)
        say(f"tintlab: {message}")
    return code


def option(argv: Sequence[str], name: str) -> str | None:
    """The value of one option before the rest is parsed: the defaults depend on it."""
    for i, here in enumerate(argv):
        if here == name and i + 1 < len(argv):
            return argv[i + 1]
        if here.startswith(f"{name}="):
            return here.removeprefix(f"{name}=")
    return None


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as text, as wide as its content."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    grid = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        grid.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    out = StringIO()
    Console(file=out, width=200, color_system=None).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())


class ProgressLine:
    """One live line on a terminal, a plain line now and then elsewhere; always on stderr."""

    EVERY_S = 5.0
    """Seconds between plain lines where nobody is looking at a terminal."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last_s = 0.0
        self._open = False

    def show(self, line: str, final: bool = False) -> None:
        """Show a line; `final` ones are never skipped and stay."""
        now_s = time.monotonic()
        if self._live:
            end = "\n" if final else ""
            print(f"\r\x1b[2K{line}", end=end, file=sys.stderr, flush=True)
            self._open = not final
        elif final or now_s - self._last_s >= self.EVERY_S:
            self._last_s = now_s
            say(line)

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal at the start of a line."""
        if self._open:
            print(file=sys.stderr, flush=True)
