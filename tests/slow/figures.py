"""The type of the `figure` fixture: part, fault, what was measured, what was wanted."""

from collections.abc import Callable

Figure = Callable[[str, str, str, str], None]
