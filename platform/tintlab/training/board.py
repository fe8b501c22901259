"""The board: a small actor between the workers of one training and its driver.

Workers write how far they are and what ended them; the driver writes that they should stop.
"""

import faulthandler
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

import psutil

from tintlab.errors import TintlabError
from tintlab.training.progress import Progress

STDERR = 2

WATCH_EVERY_S = 1.0
"""How often driver and workers look at the board; more often would cost a training of short steps
one in a hundred."""

ANSWER_S = 0.05
"""How long a step waits for the answer at most; it takes a few milliseconds."""


@dataclass(frozen=True)
class Seen:
    """What a driver sees on the board."""

    latest: Progress | None
    attempts: int
    """How often workers were started."""
    began_s: float
    """When they were first, as time.time(); 0 before."""
    first_step_s: float
    """When the first step was done."""
    notices: tuple[str, ...] = ()
    """What a person should know although training goes on."""
    failure: TintlabError | None = None
    """What no further attempt will change."""


Reported = tuple[int, dict[str, float], str]
"""A report as others than the tracking store get it: step, metrics, and the run's id."""


class Board:
    """The actor."""

    def __init__(self) -> None:
        self._latest: Progress | None = None
        self._began_s = self._first_step_s = 0.0
        self._stop = False
        self._failure: TintlabError | None = None
        self._attempts = 0
        self._notices: tuple[str, ...] = ()
        self._reports: list[Reported] = []

    def begin(self, first: bool) -> TintlabError | None:
        """A worker starts; what ended the attempt before, if that is final.

        Args: first: it is rank 0, of which each attempt has one.
        """
        self._attempts += first
        self._began_s = self._began_s or time.time()
        return self._failure

    def write(self, progress: Progress) -> None:
        """Keep the newest progress."""
        self._latest = progress
        self._first_step_s = self._first_step_s or time.time()

    def tell(self, text: str) -> None:
        """Keep what a person should know."""
        self._notices += (text,)

    def report(self, reported: Reported) -> None:
        """Keep what a validation found; after a restart the newest is reported once more."""
        self._reports.append(reported)

    def reports(self, after: int) -> list[Reported]:
        """What was reported after the first so many."""
        return self._reports[after:]

    def read(self) -> Seen:
        """What is on it."""
        times_s = (self._began_s, self._first_step_s)
        return Seen(self._latest, self._attempts, *times_s, self._notices, self._failure)

    def fail(self, error: TintlabError) -> None:
        """No further attempt will go better than this one."""
        self._failure = self._failure or error

    def ask_to_stop(self) -> None:
        """Let the workers stop after the step they are at."""
        self._stop = True

    def asked_to_stop(self) -> bool:
        """Whether they should."""
        return self._stop


class BoardLink:
    """A worker's end of the board; costs a step nothing but now and then a message."""

    def __init__(self, board: Any, rank: int, hang_timeout_s: float) -> None:
        self._board, self._first, self._timeout_s = board, rank == 0, hang_timeout_s
        self._armed_s = self._wrote_s = self._asked_s = -WATCH_EVERY_S
        self._answer: Any = None
        self._stop = self._closed = False
        self.alive()

    def begin(self) -> TintlabError | None:
        """Say that this worker starts; what ended the attempt before, if that is final."""
        import ray

        failure: TintlabError | None = ray.get(self._board.begin.remote(self._first))
        return failure

    def alive(self) -> None:
        """Put off the end of this process, which comes `hang_timeout_s` after the last call, or up
        to WATCH_EVERY_S later."""
        now_s = time.monotonic()
        if now_s - self._armed_s >= WATCH_EVERY_S and not self._closed:
            self._armed_s = now_s
            # A thread of C, so that it works whatever holds Python up; it prints where that was.
            timeout_s = self._timeout_s + WATCH_EVERY_S
            faulthandler.dump_traceback_later(timeout_s, exit=True, file=STDERR)

    def show(self, progress: Progress) -> None:
        """Tell the driver how far training is."""
        now_s = time.monotonic()
        if now_s - self._wrote_s >= WATCH_EVERY_S or progress.step == progress.total_steps:
            self._wrote_s = now_s
            self._board.write.remote(progress)

    def report(self, reported: Reported) -> None:
        """Tell the driver what a validation found."""
        if self._first:
            self._board.report.remote(reported)

    def tell(self, text: str) -> None:
        """Let the driver say something to whoever started the training."""
        import ray

        ray.get(self._board.tell.remote(text))

    def asked_to_stop(self) -> bool:
        """Whether the driver has asked for it; a question without an answer is left to later
        calls."""
        import ray

        self.alive()
        if self._first and not self._stop:
            waiting_s = 0.0
            if self._answer is None and time.monotonic() - self._asked_s >= WATCH_EVERY_S:
                self._asked_s = time.monotonic()
                self._answer = self._board.asked_to_stop.remote()
                waiting_s = ANSWER_S
            if self._answer is not None and ray.wait([self._answer], timeout=waiting_s)[0]:
                self._stop, self._answer = ray.get(self._answer), None
        return self._stop

    def fail(self, error: TintlabError) -> None:
        """Tell the next attempt, and the driver, that none will go better."""
        import ray

        ray.get(self._board.fail.remote(error))

    def close(self) -> None:
        """The work of this process is done; it may take its time from now on."""
        self._closed = True
        faulthandler.cancel_dump_traceback_later()


def watch(
    board: Any,
    show: Callable[[Progress], None],
    notice: Callable[[str], None],
    done: Event,
    report: Callable[[int, dict[str, float], str], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Tell what is on the board as it comes, until `done`; for a thread of the driver.

    Args: report: called with every report; stop: asked whether the workers are to stop.
    """
    import ray

    reported = 0

    called_s = time.time()
    shown = Seen(None, 1, 0.0, 0.0)
    ended = False
    while not ended:
        ended = done.wait(WATCH_EVERY_S)  # and look once more
        try:
            seen: Seen = ray.get(board.read.remote(), timeout=5)
            new = ray.get(board.reports.remote(reported), timeout=5) if report else []
            if stop and stop():
                board.ask_to_stop.remote()
        except (ray.exceptions.RayError, TimeoutError):
            continue
        if seen.first_step_s and not shown.first_step_s:
            started_s = psutil.Process().create_time()
            notice(
                f"first step after {seen.first_step_s - started_s:.1f} s: "
                f"Python and Ray {called_s - started_s:.1f}, "
                f"workers {seen.began_s - called_s:.1f}, "
                f"photos, model and step {seen.first_step_s - seen.began_s:.1f}"
            )
        if seen.attempts > shown.attempts and not seen.failure:
            where = f"after step {seen.latest.step}" if seen.latest else "before the first step"
            notice(
                f"workers died, hung or changed in number {where}; going on from the newest "
                f"checkpoint (restart {seen.attempts - 1})"
            )
        for each in new:
            reported += 1
            if report:
                report(*each)
        for text in seen.notices[len(shown.notices) :]:
            notice(text)
        if seen.latest and seen.latest != shown.latest:
            show(seen.latest)
        shown = replace(seen, attempts=max(1, seen.attempts))
