"""Secrets given to real commands in every way a user gives them are in nothing that they write."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from figures import Figure
from lab_data_set import noise, png, row_of, write_data_set
from mlflow_server import Server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

TINY = [
    "--training.steps", "6", "--training.eval-every-steps", "3", "--training.batch-size", "4",
    "--data.crop-px", "16", "--evaluation.crop-px", "16", "--model.depth", "1",
]  # fmt: skip


def canary(number: int) -> str:
    """Letters and digits that stand nowhere else, of which no part means anything."""
    return f"Zq7{number:02d}cAnArYk9vXw3PtB{number:02d}"


SPACE = '''"""Which learning rate?"""
from optuna.distributions import FloatDistribution
from tintlab.sweep.space import SearchSpace
SPACE = SearchSpace(search={"schedule.peak_lr": FloatDistribution(1e-4, 2e-3)}, num_trials=1)
'''

KEY_ID = "AKIA" + canary(1).upper()[:16]
PEM = f"-----BEGIN PRIVATE KEY-----\n{canary(13)}\n-----END PRIVATE KEY-----"

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": f"{canary(2)}/x+y",
    "AWS_SESSION_TOKEN": canary(3),
    "HF_TOKEN": f"hf_{canary(4)}",
    "GITHUB_TOKEN": f"ghp_{canary(5)}",
    "CI_JOB_TOKEN": f"glpat-{canary(6)}",
    "OPENAI_API_KEY": f"sk-proj-{canary(7)}",
    "SLACK_BOT_TOKEN": f"xoxb-{canary(8)}",
    "WANDB_API_KEY": canary(9),
    "MLFLOW_TRACKING_USERNAME": "me",
    "MLFLOW_TRACKING_PASSWORD": canary(10),
    "DATABASE_URL": f"postgresql://me:{canary(11)}@db/mlflow",
    "ID_TOKEN": f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0{canary(12)}.x",
    "DEPLOY_PRIVATE_KEY": PEM,
    "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=a;AccountKey={canary(14)}==",
    "GOOGLE_API_KEY": f"AIza{canary(15)}",
}


class Web(SimpleHTTPRequestHandler):
    """Files with parts of them, as fsspec asks for; whoever logs in is let in."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, part = path.read_bytes(), self.headers.get("Range")
        first, last = 0, len(data) - 1
        if part:
            first, last = (int(end) for end in part.removeprefix("bytes=").split("-"))
            last = min(last, len(data) - 1)
        self.send_response(206 if part else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder and the port on which it is served."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *request: Web(*request, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """The project in a work tree with a secret in its remote, its branch and a changed file."""
    copy = tmp_path / "code"
    shutil.copytree(ROOT / "platform", copy / "platform")
    shutil.copytree(ROOT / "pipelines", copy / "pipelines")
    git = ["git", "-C", str(copy), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (
        ["init", "-q", "-b", f"try-ghp_{canary(16)}"],
        ["remote", "add", "origin", f"https://me:{canary(17)}@github.com/me/tintlab.git"],
        ["add", "."],
        ["commit", "-qm", "all of it"],
    ):
        subprocess.run([*git, *arguments], check=True)
    changed = copy / "platform" / "tintlab" / "__init__.py"
    changed.write_text(f'{changed.read_text()}\nAPI_KEY = "{canary(18)}"\n')
    return copy


class Commands:
    """Runs `tintlab` and keeps what it printed."""

    def __init__(self, code: Path, ray: Path) -> None:
        self.printed: list[str] = []
        self._code = code
        self._environment = {
            **{k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PYTHONPATH")},
            **ENVIRONMENT,
            "PYTHONPATH": f"{code / 'platform'}:{code}",
            "RAY_TMPDIR": str(ray),
        }

    def __call__(self, *argv: str, code: int, tracking: str | None = None, **env: str) -> str:
        """Run it to the exit code that it must have; its whole output."""
        environment = {**self._environment, **env}
        environment.pop("MLFLOW_TRACKING_URI", None)
        if tracking:
            environment["MLFLOW_TRACKING_URI"] = tracking
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", *argv],
            cwd=self._code,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.printed.append(done.stdout + done.stderr)
        assert done.returncode == code, self.printed[-1]
        return self.printed[-1]


def found(needles: list[str], places: list[Path], printed: list[str]) -> list[str]:
    """Where a needle is, as it is or in base64, in files or in what was printed."""
    forms = {
        needle: [needle.encode(), base64.b64encode(needle.encode())[4:-4]] for needle in needles
    }
    hits = []
    for place in places:
        for file in place.rglob("*"):
            if not file.is_file() or file.is_symlink():
                continue
            data = file.read_bytes()
            if file.suffix == ".parquet":  # what is in it is compressed
                data += json.dumps(pq.read_table(file).to_pylist(), default=repr).encode()
            hits += [f"{n} in {file}" for n, ways in forms.items() if any(w in data for w in ways)]
    hits += [f"{n} printed: {text}" for n in needles for text in printed if n in text]
    return hits


@pytest.mark.timeout(900)
def test_thirty_canaries_are_in_no_byte(
    web: tuple[Path, int], code: Path, tmp_path: Path, figure: Figure
) -> None:
    served, port = web
    rows = [[row_of(noise(24, 24, seed), "train") for seed in range(8)]]
    rows[0] += [row_of(noise(24, 24, 100 + seed), "val") for seed in range(4)]
    write_data_set(str(served / "shards"), rows)
    write_data_set(str(served / "torn"), rows)
    for shard in (served / "torn").glob("shard-*"):
        shard.unlink()
    for number in range(4):
        (served / f"{number}.png").write_bytes(png(noise(160, 160, number)))
    workspace = tmp_path / "workspace"
    ray = Path(tempfile.mkdtemp(prefix="canary", dir="/tmp"))  # sockets need a short path
    where = ["--workspace", str(workspace)]
    commands = Commands(code, ray)
    listed = tmp_path / "list.txt"
    listed.write_text(
        f"http://127.0.0.1:{port}/0.png?X-Amz-Signature={canary(19)}\n"
        f"http://me:{canary(20)}@127.0.0.1:{port}/1.png\n"
        f"http://127.0.0.1:{port}/gone.png?token={canary(21)}\n"
        f"http://me:{canary(22)}@127.0.0.1:9/refused.png\n"
    )
    space = tmp_path / "one.py"
    space.write_text(SPACE)
    broken = tmp_path / "broken.yaml"
    broken.write_text(f"training:\n  password: {canary(23)}\n")
    try:
        commands("prepare", f"@{listed}", *where, "--min-side-px", "8", code=4)
        commands("prepare", f"s3://AKIA{'B' * 16}:{canary(24)}@bucket/photos", *where, code=3)
        out = f"ftp://me:{canary(25)}@127.0.0.1:9/set"
        commands("prepare", str(served), "--out", out, *where, code=3, TINTLAB_DEBUG="1")
        shards = ["--shards", f"http://me:{canary(26)}@127.0.0.1:{port}/shards"]
        with Server(tmp_path / "server") as server:
            up = server.uri.replace("://", f"://me:{canary(27)}@")
            commands("train", *where, *shards, *TINY, code=0, tracking=up)
        torn = ["--shards", f"http://me:{canary(26)}@127.0.0.1:{port}/torn", "--name", "torn"]
        commands("train", *where, *torn, *TINY, code=7, tracking=up, TINTLAB_DEBUG="1")
        # The server is down: what is measured waits in the spool, and cannot be sent yet.
        down = f"http://me:{canary(28)}@127.0.0.1:9"
        told = commands("train", *where, *shards, *TINY, "--name", "b", code=0, tracking=down)
        assert "does not answer" in told
        commands("track", "sync", *where, code=3, tracking=down)
        commands("sweep", str(space), *where, *shards, *TINY, code=0, tracking=down)
        name = ["--name", f"ghp_{canary(29)}"]
        commands("train", *where, *shards, *TINY, *name, code=2)
        weights = ["--loss.perceptual-weights", f"https://host/alex.pth?token={canary(30)}"]
        commands("train", *where, *shards, *TINY, *weights, code=2)
        commands("train", *where, "--config", str(broken), code=2)
        commands("train", *where, "--api-key", canary(9), code=2)
        commands("train", *where, f"--api-key={canary(9)}", "--from-run", "x", code=3)

        needles = [KEY_ID, *(canary(number) for number in range(2, 31))]
        places = [workspace, ray, tmp_path / "server"]
        logs = [file for file in ray.rglob("*") if file.is_file() and file.stat().st_size]
        hits = found(needles, places, commands.printed)
        figure(
            "Secrets",
            f"{len(needles)} canaries in environment, arguments, URIs, code and configuration of "
            f"{len(commands.printed)} commands",
            f"{len({hit.split()[0] for hit in hits})} found in any byte of their output, "
            f"workspace, tracking server and {len(logs)} files of Ray",
            "0",
        )
        assert not hits, "\n".join(hits)
        # The searched places are the right ones, and the values that are needed did work.
        assert len(logs) > 10
        sent = "".join(file.read_text() for file in (tmp_path / "server").rglob("*.diff"))
        assert 'API_KEY = "[redacted]"' in sent
        assert "http://[redacted]@127.0.0.1" in told
        assert found(["does not answer"], [workspace], [])
    finally:
        shutil.rmtree(ray, ignore_errors=True)
