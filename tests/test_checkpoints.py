"""Checkpoints: what is damaged is found and passed over, and what is loaded is what was saved."""

import errno
import hashlib
import json
import math
import os
import pickle
import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tintlab.config import ExperimentConfig
from tintlab.errors import EnvironmentFault, IntegrityError
from tintlab.model.colorizer import Colorizer
from tintlab.settings import OptimizerConfig
from tintlab.training.checkpoint_choice import DamagedCheckpoint, OtherVersion
from tintlab.training.checkpoints import (
    EMA,
    MANIFEST,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    Checkpoints,
    State,
    read,
    read_state,
    seal,
    verify,
)
from tintlab.training.optimizer import adamw, load_moments, moments_by_name
from tintlab.training.workers import fill

FILES = [WEIGHTS, EMA, OPTIMIZER, STATE, MANIFEST]
TINY = ExperimentConfig().replaced(
    {"model.depth": 1, "data.crop_px": 16, "evaluation.crop_px": 16, "bins.per_channel": 8}
)


def state(step: int, **metrics: float) -> State:
    return State(
        step=step,
        images_seen=16 * step,
        data_fingerprint="sky",
        metrics={name.replace("_", "/", 1): value for name, value in metrics.items()},
        config=TINY,
    )


def trained(seed: int) -> tuple[nn.Module, nn.Module, torch.optim.AdamW]:
    """A model after two optimizer steps, another as its average, and the optimizer."""
    torch.manual_seed(seed)
    model, ema = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = adamw(model, OptimizerConfig())
    for _ in range(2):
        update(model, optimizer)
    return model, ema, optimizer


def parts(model: nn.Module, ema: nn.Module, optimizer: torch.optim.AdamW) -> tuple[dict, ...]:
    """What a checkpoint keeps of them."""
    return model.state_dict(), ema.state_dict(), moments_by_name(optimizer)


def restore(
    checkpoint: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.AdamW
) -> State:
    kept = read(checkpoint)
    fill(model, kept.weights, str(checkpoint))
    fill(ema, kept.ema, str(checkpoint))
    load_moments(optimizer, kept.moments)
    return kept.state


def update(model: nn.Module, optimizer: torch.optim.AdamW) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.zero_grad()
    model(torch.arange(6.0).view(2, 3)).square().sum().backward()
    optimizer.step()


@pytest.fixture
def two(tmp_path: Path) -> Checkpoints:
    """Good checkpoints at steps 100 and 200."""
    checkpoints = Checkpoints(tmp_path / "run")
    for step in (100, 200):
        checkpoints.save(state(step), *parts(*trained(seed=step)))
    return checkpoints


def test_what_is_restored_goes_on_bit_for_bit(tmp_path):
    model, ema, optimizer = trained(seed=1)
    saved = state(100, val_bits_per_dim=2.5)
    checkpoint = Checkpoints(tmp_path).save(saved, *parts(model, ema, optimizer))
    assert checkpoint == tmp_path / "step-00000100"
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted(FILES)

    other, other_ema, other_optimizer = trained(seed=2)
    assert restore(checkpoint, other, other_ema, other_optimizer) == saved
    assert torch.equal(other_ema.weight, ema.weight)
    for _ in range(3):
        update(model, optimizer)
        update(other, other_optimizer)
        assert torch.equal(other.weight, model.weight)
        assert torch.equal(other.bias, model.bias)


def test_restores_into_an_optimizer_that_has_not_stepped(tmp_path):
    model, ema, optimizer = trained(seed=1)
    checkpoint = Checkpoints(tmp_path).save(state(1), *parts(model, ema, optimizer))
    fresh = nn.Linear(3, 2)
    fresh_optimizer = adamw(fresh, OptimizerConfig())
    restore(checkpoint, fresh, nn.Linear(3, 2), fresh_optimizer)
    update(model, optimizer)
    update(fresh, fresh_optimizer)
    assert torch.equal(fresh.weight, model.weight)


def test_the_averaged_model_is_loaded_ready_to_evaluate(tmp_path):
    torch.manual_seed(0)
    model, ema = Colorizer(TINY.model, TINY.bins), Colorizer(TINY.model, TINY.bins)
    checkpoint = Checkpoints(tmp_path).save(
        state(7), *parts(model, ema, adamw(model, OptimizerConfig()))
    )
    loaded = Checkpoints.load_ema(checkpoint)
    assert not loaded.training
    for name, tensor in ema.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_without_checkpoints_there_is_no_newest(tmp_path):
    assert Checkpoints(tmp_path / "never made").newest() is None
    assert not (tmp_path / "never made").exists()


def test_the_newest_is_by_step_and_needs_no_warning(two):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert two.newest() == two.folder / "step-00000200"
    two.save(state(100_000_000), *parts(*trained(seed=3)))
    assert two.newest() == two.folder / "step-100000000"


def falls_back(checkpoints: Checkpoints, damaged_file: str) -> bool:
    with pytest.warns(DamagedCheckpoint, match=rf"step-00000200.*{damaged_file}.*step-00000100"):
        return checkpoints.newest() == checkpoints.folder / "step-00000100"


def test_every_flipped_bit_is_found(two):
    draw = random.Random(0)
    newest = two.folder / "step-00000200"
    sizes = [(newest / name).stat().st_size for name in FILES]
    for _ in range(200):
        file = newest / draw.choices(FILES, weights=sizes)[0]
        good = file.read_bytes()
        bad = bytearray(good)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        file.write_bytes(bad)
        with pytest.raises(IntegrityError, match="step-00000200"):
            verify(newest)
        with pytest.warns(DamagedCheckpoint, match="using step-00000100 instead"):
            assert two.newest() == two.folder / "step-00000100"
        file.write_bytes(good)
    verify(newest)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_found(two, name):
    file = two.folder / "step-00000200" / name
    good = file.read_bytes()
    # The manifest's last byte is a newline, without which it still says the same.
    last = len(good) - (2 if name == MANIFEST else 1)
    for length in (0, 1, len(good) // 2, last):
        file.write_bytes(good[:length])
        assert falls_back(two, name)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(two, name):
    (two.folder / "step-00000200" / name).unlink()
    assert falls_back(two, name)


def test_with_every_checkpoint_damaged_nothing_is_guessed(two):
    for checkpoint in two.all():
        (checkpoint / WEIGHTS).write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"no usable checkpoint in .*step-00000200.*0 bytes"):
        two.newest()


def of_version(checkpoint: Path, version: int) -> dict[str, bytes]:
    """Make a checkpoint one of another format version; returns what is in it then."""
    file = checkpoint / MANIFEST
    manifest = json.loads(file.read_text()) | {"version": version}
    manifest["sha256"] = seal(manifest)
    if version == 1:
        del manifest["sha256"]
    file.write_text(json.dumps(manifest))
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


@pytest.mark.parametrize("version", [1, 2, 4])
def test_another_format_version_is_neither_passed_over_nor_replaced(two, version):
    checkpoint = two.folder / "step-00000200"
    before = of_version(checkpoint, version)
    said = f"has format version {version}, this tintlab reads version 3"
    with pytest.raises(OtherVersion, match=said):
        two.newest()
    with pytest.raises(OtherVersion, match=said):
        two.save(state(200), *parts(*trained(seed=1)))
    two.save(state(300), *parts(*trained(seed=3)))
    two.prune(keep_last=1, keep_best=0)
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert [path.name for path in two.folder.iterdir() if path.name.startswith(".")] == []


def test_a_flipped_bit_in_the_version_is_damage_and_no_other_version(two):
    file = two.folder / "step-00000200" / MANIFEST
    good = file.read_text()
    for digit in "127":
        file.write_text(good.replace('"version": 3', f'"version": {digit}'))
        assert falls_back(two, MANIFEST)


def test_settings_of_another_tintlab_are_named(two):
    checkpoint = two.folder / "step-00000200"
    tree = json.loads((checkpoint / STATE).read_text())
    tree["config"]["model"]["colour_wheels"] = 3
    forge(checkpoint, STATE, json.dumps(tree).encode())
    with pytest.raises(IntegrityError, match=r"at config\.model\.colour_wheels"):
        read_state(checkpoint)


def forge(checkpoint: Path, name: str, data: bytes) -> None:
    """Replace a file, and make the manifest agree."""
    (checkpoint / name).write_bytes(data)
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest["sha256"] = seal(manifest)
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


class Canary:
    """Leaves a file behind if anything unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", [WEIGHTS, EMA, OPTIMIZER])
def test_a_pickle_with_a_matching_manifest_is_refused_and_not_executed(two, tmp_path, name):
    canary = tmp_path / "executed"
    checkpoint = two.folder / "step-00000200"
    forge(checkpoint, name, pickle.dumps(Canary(canary)))
    with pytest.raises(IntegrityError, match=name):
        read(checkpoint)
    assert not canary.exists()


def test_tensors_of_another_model_are_refused(two):
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    with pytest.raises(IntegrityError, match=r"step-00000200 does not fit .*size mismatch"):
        restore(two.folder / "step-00000200", model, model, adamw(model, OptimizerConfig()))


def test_metrics_that_are_no_numbers_are_kept_in_plain_json(tmp_path):
    saved = state(5, val_psnr_db=math.inf)
    checkpoint = Checkpoints(tmp_path).save(saved, *parts(*trained(seed=0)))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads((checkpoint / STATE).read_text(), parse_constant=refuse)
    assert read_state(checkpoint).metrics == {"val/psnr_db": math.inf}


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    bits = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: 2.6}
    for step, value in bits.items():
        checkpoints.save(state(step, val_bits_per_dim=value), *parts(*trained(seed=step)))
    deleted = checkpoints.prune(keep_last=2, keep_best=1)
    assert [path.name for path in deleted] == ["step-00000001", "step-00000003"]
    assert [read_state(path).step for path in checkpoints.all()] == [2, 4, 5]
    assert checkpoints.prune(keep_last=2, keep_best=1) == []
    checkpoints.prune(keep_last=1, keep_best=0)
    assert [read_state(path).step for path in checkpoints.all()] == [5]


def test_prune_leaves_what_it_cannot_read(two):
    (two.folder / "step-00000100" / STATE).write_text("{}")
    assert two.prune(keep_last=1, keep_best=0) == []
    assert len(two.all()) == 2


def test_a_writer_that_was_killed_leaves_nothing_that_is_taken_for_a_checkpoint(two):
    leftover = two.folder / ".step-00000300.partial"
    shutil.copytree(two.folder / "step-00000200", leftover)
    assert two.newest() == two.folder / "step-00000200"
    two.save(state(400), *parts(*trained(seed=4)))
    assert not leftover.exists()


@pytest.mark.parametrize("operation", ["fsync", "rename"])
def test_a_full_disk_keeps_the_earlier_checkpoints_and_names_the_path(two, monkeypatch, operation):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, operation, full)
    with pytest.raises(
        EnvironmentFault,
        match=r"step-00000300, which needs [\d,]+ bytes \([\d,]+ are free\): .*No space left",
    ):
        two.save(state(300), *parts(*trained(seed=3)))
    monkeypatch.undo()
    assert sorted(path.name for path in two.folder.iterdir()) == ["step-00000100", "step-00000200"]
    assert two.newest() == two.folder / "step-00000200"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("operation", ["fsync", "rename"])
def test_stopped_in_the_middle_of_a_save_leaves_nothing(two, monkeypatch, operation, stop):
    def stopped(*_):
        raise stop

    monkeypatch.setattr(os, operation, stopped)
    with pytest.raises(stop):
        two.save(state(300), *parts(*trained(seed=3)))
    monkeypatch.undo()
    assert sorted(path.name for path in two.folder.iterdir()) == ["step-00000100", "step-00000200"]
    assert two.newest() == two.folder / "step-00000200"


def test_equal_content_has_equal_bytes(two, tmp_path):
    again = Checkpoints(tmp_path / "again").save(state(100), *parts(*trained(seed=100)))
    for name in FILES:
        assert (again / name).read_bytes() == (two.folder / again.name / name).read_bytes(), name


def test_one_killed_while_it_was_deleted_is_gone_after_the_next_save(two, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        two.prune(keep_last=1, keep_best=0)
    monkeypatch.undo()
    assert [path.name for path in two.all()] == ["step-00000200"]
    two.save(state(300), *parts(*trained(seed=3)))
    assert sorted(path.name for path in two.folder.iterdir()) == ["step-00000200", "step-00000300"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match=r"cannot write checkpoint .*Not a directory"):
        Checkpoints(tmp_path / "file" / "run").save(state(1), *parts(*trained(seed=1)))


def test_a_damaged_checkpoint_is_written_again(two):
    (two.folder / "step-00000200" / WEIGHTS).write_bytes(b"")
    two.save(state(200), *parts(*trained(seed=200)))
    verify(two.folder / "step-00000200")
