"""How far a long piece of work is, how fast it goes, and how long it will take."""

import time
from collections.abc import Callable

BAR_CHARACTERS = 20


class Pace:
    """Writes progress lines.

    Args: clock: seconds; another one in tests.
    """

    def __init__(
        self, label: str, unit: str, total: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label, self._unit, self._total = label, unit, total
        self._clock = clock
        self._start_s = clock()

    def line(self, done: int, worked: int) -> str:
        """Args: worked: of those done, the ones that took work; others were done before."""
        filled = BAR_CHARACTERS * done // max(self._total, 1)
        bar = "█" * filled + "░" * (BAR_CHARACTERS - filled)
        text = f"{self._label} {bar} {done:,} of {self._total:,} {self._unit}"
        rate = worked / max(self._clock() - self._start_s, 1e-3)
        if not worked or done >= self._total:
            return text
        left_s = round((self._total - done) / rate)
        return f"{text}, {rate:,.0f}/s, {left_s // 60}:{left_s % 60:02} left"
