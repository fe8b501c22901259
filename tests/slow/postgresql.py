"""A PostgreSQL server of its own, for as long as a test needs one."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

USER = "postgres"
"""PostgreSQL refuses to be run by root; where that is who tests, it runs as its own user."""


def is_installed() -> bool:
    """Whether its programs are there, which the tests cannot install."""
    return all(shutil.which(name) for name in ("initdb", "postgres", "createdb", "pg_isready"))


class PostgreSQL:
    """A server on a free port with one empty database, `sweeps`."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tintlab-postgresql-"))
        self._as = {"user": USER} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(self._folder, USER)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", str(self._folder / "data"), "-A", "trust", "-U", "tintlab")
        self.start()
        self._run("createdb", *self._address, "-U", "tintlab", "sweeps")

    @property
    def url(self) -> str:
        """For `--sweep.storage`."""
        return f"postgresql+psycopg://tintlab@127.0.0.1:{self.port}/sweeps"

    @property
    def _address(self) -> tuple[str, ...]:
        return ("-h", "127.0.0.1", "-p", str(self.port))

    def start(self) -> None:
        """Begin to answer."""
        options = ["-D", str(self._folder / "data"), "-k", str(self._folder)]
        options += ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        self._process = subprocess.Popen(
            ["postgres", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            **self._as,  # type: ignore[arg-type]
        )
        deadline_s = time.monotonic() + 60
        while subprocess.run(["pg_isready", "-q", *self._address], check=False).returncode:
            assert time.monotonic() < deadline_s, "PostgreSQL did not start"
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop answering at once, as when its machine is switched off."""
        self._process.send_signal(3)  # SIGQUIT: immediate shutdown
        self._process.wait()

    def close(self) -> None:
        """Stop, and leave nothing."""
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, **self._as)  # type: ignore[call-overload]
