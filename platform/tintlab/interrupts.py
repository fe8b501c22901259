"""A call that Ctrl-C and SIGTERM ask to end, instead of breaking into it."""

import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

LOOK_EVERY_S = 0.5


class Hurried(KeyboardInterrupt):
    """A second Ctrl-C or SIGTERM: nothing is waited for any longer. The first is its cause."""


class Interruptible:
    """A call in a thread, so that signals reach the main one: Ray would handle Ctrl-C its way."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.interrupt: KeyboardInterrupt | None = None
        self._error: BaseException | None = None
        self._call = call
        self._over = Event()  # Thread.join is not safe to interrupt (python 3.11, bpo-45274)
        Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self._error = error
        finally:
            self._over.set()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._over.is_set()

    def wait(self, interrupted: Callable[[], bool], grace_s: float) -> None:
        """Until it has ended; raises what it raised, or a KeyboardInterrupt that cannot wait, the
        second one as `Hurried`.

        Args: interrupted: called at the first KeyboardInterrupt; whether there is anything to wait
            for. grace_s: how long that is waited for.
        """
        deadline_s = float("inf")
        while not self._over.is_set():
            try:
                self._over.wait(LOOK_EVERY_S)
            except KeyboardInterrupt as error:  # SIGTERM is one as well
                if self.interrupt:
                    raise Hurried from error
                self.interrupt = error
                deadline_s = time.monotonic() + grace_s
                if not interrupted():
                    raise
            if time.monotonic() > deadline_s:
                assert self.interrupt is not None
                raise self.interrupt
        if self._error is not None:
            raise self._error
