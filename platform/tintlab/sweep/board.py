"""The board of a sweep, in a module of its own: its process has nothing heavy to import."""

from tintlab.training.board import Board


class SweepBoard(Board):
    """The board of a sweep: an actor that tells runs to stop, all of them or one."""

    def __init__(self) -> None:
        super().__init__()
        self._behind: set[str] = set()

    def stop_run(self, identity: str) -> None:
        """Let one run stop after the step it is at."""
        self._behind.add(identity)

    def is_behind(self, identity: str) -> bool:
        """Whether that run was told to."""
        return identity in self._behind
