"""Checkpoints under faults of processes and disks: what was saved before is there, and is whole.

pytest tests/slow/test_checkpoint_faults.py -s -m slow
"""

import ctypes
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from figures import Figure

from tintlab.config import ExperimentConfig, Workspace
from tintlab.errors import EnvironmentFault, IntegrityError
from tintlab.model.colorizer import Colorizer
from tintlab.settings import OptimizerConfig
from tintlab.training import ownership
from tintlab.training.checkpoints import CONTENT, MANIFEST, STATE, Checkpoints, State, read
from tintlab.training.optimizer import adamw, moments_by_name
from tintlab.training.ownership import locked, preflight
from tintlab.training.workers import Tensors

pytestmark = pytest.mark.slow

TINY = ExperimentConfig().replaced(
    {"model.depth": 1, "data.crop_px": 16, "evaluation.crop_px": 16, "bins.per_channel": 8}
)
FILES = [*CONTENT, MANIFEST]
TENSORS = [name for name in FILES if name.endswith(".safetensors")]
NEWNS, PRIVATE, READ_ONLY, REMOUNT, BIND = 0x20000, 0x44000, 1, 0x20, 0x1000
"""Of Linux's unshare(2) and mount(2)."""


def parts(seed: int) -> tuple[Tensors, Tensors, Tensors]:
    """Of a colorizer, of another as its average, and of an optimizer that has stepped."""
    torch.manual_seed(seed)
    model, ema = (Colorizer(TINY.model, TINY.bins) for _ in range(2))
    optimizer = adamw(model, OptimizerConfig())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return model.state_dict(), ema.state_dict(), moments_by_name(optimizer)


def save(checkpoints: Checkpoints, step: int) -> Path:
    state = State(step=step, images_seen=16 * step, data_fingerprint="sky", metrics={}, config=TINY)
    return checkpoints.save(state, *parts(seed=step))


def loads(checkpoint: Path, step: int) -> bool:
    """Whether it is what was saved at that step, to the last bit."""
    state, *kept = read(checkpoint)
    same = [
        ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        for ours, theirs in zip(kept, parts(seed=step), strict=True)
    ]
    return state.step == step and all(same)


@pytest.fixture
def two(tmp_path: Path) -> Checkpoints:
    """Good checkpoints at steps 100 and 200."""
    checkpoints = Checkpoints(tmp_path / "run")
    save(checkpoints, 100)
    save(checkpoints, 200)
    return checkpoints


def in_child(work: Callable[[], None]) -> int:
    """Do `work` in a process of its own; returns its wait status. 0 is: it ended, without error."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)  # libgomp's threads have stayed with the parent
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def killed_at_byte(file: str, byte: int) -> None:
    """Let the kernel kill this process when it writes more than so many bytes of that file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    save_file, write_text = safetensors.torch.save_file, Path.write_text

    def limit(path: Path) -> None:
        if Path(path).name == file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (byte, resource.RLIM_INFINITY))

    def limited_save_file(tensors: dict[str, torch.Tensor], path: Path) -> None:
        limit(path)
        save_file(tensors, path)

    def limited_write_text(path: Path, text: str) -> int:
        limit(path)
        return write_text(path, text)

    safetensors.torch.save_file = limited_save_file
    Path.write_text = limited_write_text


def killed_before(operation: str, call: int, number: int = signal.SIGKILL) -> None:
    """Send this process a signal right before its n-th call of a function of `os`."""
    real, calls = getattr(os, operation), iter(range(1, 1000))

    def killing(*arguments: object) -> object:
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return real(*arguments)

    setattr(os, operation, killing)


def test_a_writer_killed_at_any_point_leaves_the_checkpoint_before_it(
    two: Checkpoints, figure: Figure
) -> None:
    sizes = {name: (two.folder / "step-00000200" / name).stat().st_size for name in FILES}
    points: list[tuple[str, Callable[[], None], int]] = []
    for name, size in sizes.items():
        for byte in (0, 1, size // 2, size - 1):
            points.append((f"{name} at {byte}", lambda n=name, b=byte: killed_at_byte(n, b), 200))
    # The five files, the folder with them, and the folder of checkpoints once it has its name.
    points += [
        (f"fsync {call}", lambda c=call: killed_before("fsync", c), 200) for call in range(1, 7)
    ]
    points.append(("rename", lambda: killed_before("rename", 1), 200))
    points.append(("fsync of the folder", lambda: killed_before("fsync", 7), 300))
    points.append(("after", lambda: None, 300))
    good = []
    for name, arm, expected in points:

        def writer(arm: Callable[[], None] = arm, name: str = name) -> None:
            arm()
            save(two, 300)
            if name != "after":
                os._exit(7)  # the fault did not happen
            os.kill(os.getpid(), signal.SIGKILL)

        status = in_child(writer)
        assert os.WIFSIGNALED(status), name
        newest = two.newest()  # a warning would be an error
        good.append(newest == two.at(expected) and loads(newest, expected))
        shutil.rmtree(two.at(300), ignore_errors=True)
        save(two, 400)  # clears away what was left
        good[-1] &= sorted(path.name for path in two.folder.iterdir()) == [
            two.at(step).name for step in (100, 200, 400)
        ]
        shutil.rmtree(two.at(400))
    figure(
        "Checkpoints",
        f"writer killed at 8 points (0 B, 1 B, half, all but 1 B of each of {len(sizes)} files, "
        f"before each fsync, rename, folder fsync, after): {len(points)} kills",
        f"{sum(good)} of {len(good)} times the newest whole checkpoint was loaded, bit for bit, "
        "and nothing was left behind",
        f"{len(points)} of {len(points)}",
    )
    assert all(good)


def test_a_writer_killed_while_it_replaces_a_damaged_one_leaves_the_one_before(
    two: Checkpoints,
) -> None:
    (two.at(200) / STATE).write_bytes(b"")

    def writer() -> None:
        killed_before("rename", 1)
        save(two, 200)

    assert os.WTERMSIG(in_child(writer)) == signal.SIGKILL
    newest = two.newest()
    assert newest is not None
    assert loads(newest, 100)
    save(two, 200)
    assert loads(two.at(200), 200)


def test_ctrl_c_in_the_middle_of_a_save_leaves_whole_checkpoints_only(
    two: Checkpoints, figure: Figure
) -> None:
    good = []
    for operation, call in [*(("fsync", call) for call in range(1, 8)), ("rename", 1)]:

        def writer(operation: str = operation, call: int = call) -> None:
            killed_before(operation, call, signal.SIGINT)
            try:
                save(two, 300)
            except KeyboardInterrupt:
                os._exit(130)

        assert os.waitstatus_to_exitcode(in_child(writer)) == 130
        steps = [100, 200, 300] if call == 7 else [100, 200]
        names = sorted(path.name for path in two.folder.iterdir())
        good.append(names == [two.at(step).name for step in steps])
        good[-1] &= two.newest() == two.at(steps[-1]) and loads(two.at(steps[-1]), steps[-1])
        shutil.rmtree(two.at(300), ignore_errors=True)
    figure(
        "Checkpoints",
        f"Ctrl-C at {len(good)} points of a save",
        f"{sum(good)} of {len(good)} times whole checkpoints only, and nothing else left",
        f"{len(good)} of {len(good)}",
    )
    assert all(good)


def falls_back(two: Checkpoints, name: str) -> tuple[bool, bool, bool]:
    """Whether damage is found before use, the older one is used, and the message names the file."""
    try:
        read(two.at(200))
        found = False
    except IntegrityError:
        found = True
    said: list[str] = []
    fell_back = two.newest(said.append) == two.at(100)
    return found, fell_back, len(said) == 1 and str(two.at(200) / name) in said[0]


def test_no_damage_is_ever_loaded(two: Checkpoints, figure: Figure) -> None:
    draw = random.Random(0)
    good = {name: (two.at(200) / name).read_bytes() for name in FILES}

    def tried(name: str, content: bytes | None) -> tuple[bool, bool, bool]:
        file = two.at(200) / name
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        result = falls_back(two, name)
        file.write_bytes(good[name])
        return result

    flips, cuts, gone = [], [], []
    for name in FILES:
        for _ in range(40):
            bad = bytearray(good[name])
            bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
            flips.append(tried(name, bytes(bad)))
        # The manifest's last byte is a newline, without which it still says the same.
        last = len(good[name]) - (name == MANIFEST)
        cuts += [tried(name, good[name][: draw.randrange(1, last)]) for _ in range(10)]
        gone += [tried(name, b""), tried(name, None)]
    for what, results in (
        (f"{len(flips)} single flipped bits over all files", flips),
        (f"{len(cuts)} truncated files", cuts),
        (f"each file empty, each file missing ({len(gone)} cases)", gone),
    ):
        found, fell_back, named = (sum(column) for column in zip(*results, strict=True))
        n = len(results)
        figure(
            "Checkpoints",
            what,
            f"{found} found before use, {fell_back} fell back to the older one, {named} messages "
            "name the file",
            f"{n}, {n}, {n}",
        )
        assert (found, fell_back, named) == (n, n, n)
    assert loads(two.at(200), 200)
    assert (len(flips), len(cuts)) == (200, 50)


def mounted(*arguments: str | int | None) -> None:
    """mount(2) in this process's own view of the file system."""
    libc = ctypes.CDLL(None, use_errno=True)
    source, target, kind, flags, options = (
        argument.encode() if isinstance(argument, str) else argument for argument in arguments
    )
    if libc.mount(source, target, kind, flags, options):
        raise OSError(ctypes.get_errno(), "mount")


def own_mounts() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    mounted("none", "/", None, PRIVATE, None)


@pytest.fixture
def can_mount(tmp_path: Path) -> None:
    def attempt() -> None:
        own_mounts()
        mounted("tmpfs", str(tmp_path), "tmpfs", 0, "size=64k")

    if in_child(attempt):
        pytest.skip("this user may not mount a small disk (needs root, or CAP_SYS_ADMIN)")


def test_a_full_disk_costs_no_checkpoint_and_leaves_nothing(
    can_mount: None, tmp_path: Path, figure: Figure
) -> None:
    need = sum(path.stat().st_size for path in save(Checkpoints(tmp_path / "x"), 100).iterdir())
    pages = need // 4096
    free_pages = sorted({pages * i // 20 for i in range(20)})
    disk, report = tmp_path / "disk", tmp_path / "report.json"
    disk.mkdir()

    def fill() -> None:
        own_mounts()
        mounted("tmpfs", str(disk), "tmpfs", 0, f"size={4 * need}")
        checkpoints = Checkpoints(disk / "run")
        save(checkpoints, 100)
        save(checkpoints, 200)
        results = []
        for pages_left in free_pages:
            filler = disk / "filler"
            filler.write_bytes(b"")
            filler.write_bytes(b"\0" * (shutil.disk_usage(disk).free - 4096 * pages_left))
            try:
                save(checkpoints, 300)
                message = ""
            except EnvironmentFault as error:
                message = str(error)
            names = sorted(path.name for path in checkpoints.folder.iterdir())
            results.append(
                {
                    "intact": checkpoints.newest() == checkpoints.at(200)
                    and loads(checkpoints.at(200), 200)
                    and loads(checkpoints.at(100), 100),
                    "left": len(set(names) - {"step-00000100", "step-00000200"}),
                    "named": str(checkpoints.at(300)) in message
                    and " bytes (" in message
                    and "No space left on device" in message,
                }
            )
            filler.unlink()
        save(checkpoints, 300)  # once there is room
        results.append({"afterwards": loads(checkpoints.at(300), 300)})
        report.write_text(json.dumps(results))

    assert in_child(fill) == 0
    *results, last = json.loads(report.read_text())
    n = len(results)
    intact, left, named = (
        sum(result[key] for result in results) for key in ("intact", "left", "named")
    )
    figure(
        "Checkpoints",
        f"disk full at {n} places of a save (a real, small disk)",
        f"{intact} of {n} times all earlier checkpoints intact, {left} files left behind, {named} "
        "messages name path and bytes",
        f"{n}, 0, {n}",
    )
    assert (intact, left, named) == (n, 0, n)
    assert last["afterwards"]


def test_what_cannot_be_written_is_found_before_anything_starts(
    can_mount: None, tmp_path: Path, figure: Figure
) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("mount", "closed"):
        (tmp_path / folder).mkdir()
    (tmp_path / "closed").chmod(0o555)

    def read_only_mount() -> None:
        own_mounts()
        mounted(str(tmp_path / "mount"), str(tmp_path / "mount"), None, BIND, None)
        mounted("none", str(tmp_path / "mount"), None, REMOUNT | BIND | READ_ONLY, None)

    def other_user() -> None:  # root may write anywhere
        if os.getuid() == 0:
            os.setuid(65534)

    cases: dict[str, tuple[Path, Callable[[], None]]] = {
        "a read-only disk": (tmp_path / "mount", read_only_mount),
        "no permission": (tmp_path / "closed", other_user),
        "a file in its place": (tmp_path / "file", lambda: None),
        "/proc": (Path("/proc"), lambda: None),
    }
    slowest_s, named = 0.0, 0
    for place, arm in cases.values():
        reading, writing = os.pipe()

        def attempt(
            place: Path = place, arm: Callable[[], None] = arm, writing: int = writing
        ) -> None:
            arm()
            try:
                preflight(Workspace.at(str(place)), "train/x")
            except EnvironmentFault as error:
                os.write(writing, str(error).encode())

        started_s = time.monotonic()
        assert in_child(attempt) == 0
        slowest_s = max(slowest_s, time.monotonic() - started_s)
        os.close(writing)
        with os.fdopen(reading) as message:
            named += message.read().startswith(f"cannot write to {place}/checkpoints/train_x: ")
    figure(
        "Checkpoints",
        f"folder that cannot be written ({', '.join(cases)}): found before a run or Ray is started",
        f"{named} of {len(cases)}, in {slowest_s:.2f} s at most",
        f"{len(cases)} of {len(cases)}, 5 s",
    )
    assert named == len(cases)
    assert slowest_s < 5


def test_of_many_that_start_at_once_exactly_one_proceeds(
    tmp_path: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "PATIENCE_S", 0.0)
    rounds, each = 25, 8
    winners = []
    for number in range(rounds):
        told = tmp_path / str(number)
        told.mkdir()
        start_s = time.time() + 0.1

        def contend(told: Path = told, start_s: float = start_s) -> None:
            while time.time() < start_s:
                pass
            with locked(tmp_path / "run", "train/x"):  # one folder, each round's holders are dead
                (told / str(os.getpid())).touch()
                while len(list(told.iterdir())) < each:
                    time.sleep(0.005)
                os.kill(os.getpid(), signal.SIGKILL)

        children = []
        for _ in range(each):
            child = os.fork()
            if child == 0:
                try:
                    contend()
                except ownership.ConflictError:
                    (told / f"refused-{os.getpid()}").touch()
                finally:
                    os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        winners.append(sum(not path.name.startswith("refused") for path in told.iterdir()))
    figure(
        "Checkpoints",
        f"{each} processes train one run at once, {rounds} times; the holder is then killed",
        f"{sum(count == 1 for count in winners)} of {rounds} times exactly one proceeds",
        f"{rounds} of {rounds}",
    )
    assert winners == [1] * rounds


def test_the_same_content_is_the_same_bytes_in_another_process(two: Checkpoints) -> None:
    again = Checkpoints(two.folder.parent / "again")
    assert in_child(lambda: save(again, 200) and None) == 0

    def hashes(folder: Path) -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
        }

    assert hashes(again.at(200)) == hashes(two.at(200))
