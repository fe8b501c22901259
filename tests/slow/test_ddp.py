"""Several workers train what one trains: the same losses, averages and validations."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_shards import small_shards
from torch import distributed, multiprocessing
from training_process import data_set

from tintlab.config import ExperimentConfig
from tintlab.console import table
from tintlab.data.shards import Shards, open_shards
from tintlab.evaluation.validate import validate
from tintlab.model.colorizer import Colorizer
from tintlab.training.checkpoints import OPTIMIZER, Checkpoints
from tintlab.training.loop import Report, train

pytestmark = pytest.mark.slow

CONFIG = ExperimentConfig().replaced(
    {
        "data.crop_px": 16,
        "evaluation.crop_px": 16,
        # Colours that are exactly 1 / bins of a batch have a gradient of 0 but for rounding, which
        # Adam makes a whole step of at first; 12 photos of 16 positions do not divide by 7.
        "bins.per_channel": 7,
        "model.depth": 1,
        "training.steps": 50,
        "training.batch_size": 12,
        "training.eval_every_steps": 25,
    }
)


def score(model: Colorizer, shards: Shards) -> tuple[dict[str, float], None]:
    return {"val/bits_per_dim": 3.0 + next(iter(model.parameters())).mean().item()}, None


EVERY_LOSS = {
    "training.activation_checkpointing": True,
    "training.loss_chunks": 3,
    "loss.perceptual": 0.5,
    "loss.perceptual_net": "random_features",
    "loss.rebalance": 0.5,
    "loss.smoothing_sigma_ab": 5.0,
    "model.encoder_attention_blocks": 1,
    "model.decoder_attention_blocks": 1,
}
"""And all that saves memory."""


def worker(
    rank: int, world_size: int, uri: str, folder: str, changes: dict, accumulation: int
) -> None:
    """One rank, in a process of its own; writes what it was told."""
    torch.set_num_threads(1)
    home = Path(folder)
    distributed.init_process_group(
        "gloo", init_method=f"file://{home}/meeting", rank=rank, world_size=world_size
    )
    config = CONFIG.replaced(
        {"training.accumulation": accumulation, "training.workers": world_size, **changes}
    )
    losses: list[float] = []
    reports: list[Report] = []
    train(
        config,
        open_shards(uri),
        home / "checkpoints",
        score,
        reports.append,
        Checkpoints(home / "checkpoints").newest(),
        lambda progress: losses.append(progress.loss),
    )
    told = {
        "losses": losses,
        "metrics": [{k: v for k, v in r.metrics.items() if "perf" not in k} for r in reports],
        "wrote": [r.checkpoint is not None for r in reports],
    }
    (home / f"rank{rank}.json").write_text(json.dumps(told))
    distributed.destroy_process_group()


def trained(
    world_size: int, uri: str, folder: Path, changes: dict, accumulation: int
) -> list[dict]:
    folder.mkdir(exist_ok=True)
    arguments = (world_size, uri, str(folder), changes, accumulation)
    multiprocessing.spawn(worker, arguments, nprocs=world_size)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world_size)]


@pytest.mark.parametrize(
    ("changes", "alone", "world_size", "accumulation"),
    [
        ({}, 1, 2, 1),  # the plain case
        # A micro-batch draws its dropout by its place in the stream, whoever computes it.
        ({"model.dropout": 0.1}, 6, 2, 3),
        ({"model.dropout": 0.1}, 6, 3, 2),
        (EVERY_LOSS, 2, 2, 1),
        # Terms of weight 0 keep every weight in the graph, which DDP waits for.
        ({"loss.parallel": 0.0, "loss.pixel": 0.0}, 1, 2, 1),
        ({"training.parallelism": "fsdp"}, 1, 2, 1),
        ({"training.parallelism": "fsdp", "model.dropout": 0.1}, 6, 3, 2),
        ({"training.parallelism": "fsdp", **EVERY_LOSS}, 2, 2, 1),
    ],
    ids=[
        "plain",
        "dropout-2",
        "dropout-3",
        "every-loss",
        "weights-0",
        "fsdp",
        "fsdp-dropout-3",
        "fsdp-every-loss",
    ],
)
def test_workers_equal_one_worker_at_the_same_global_batch(
    tmp_path, figure, request, changes, alone, world_size, accumulation
):
    uri = small_shards(tmp_path / "shards")
    [one] = trained(1, uri, tmp_path / "one", changes, alone)
    many = trained(world_size, uri, tmp_path / "many", changes, accumulation)
    # FSDP adds the norm of the gradient up in another order. A rounding error becomes a step of its
    # own size where a gradient is 0 but for rounding, as some are with every loss.
    wanted = 5e-3 if request.node.callspec.id == "fsdp-every-loss" else 1e-5
    worst = max(abs(a - b) for a, b in zip(many[0]["losses"], one["losses"], strict=True))
    kind = changes.get("training.parallelism", "ddp").upper()
    figure(
        "Training",
        f"{world_size} {kind} workers against 1, 50 steps: {request.node.callspec.id}",
        f"losses differ by at most {worst:.1e}",
        f"{wanted:g}",
    )
    assert worst <= wanted
    for rank, told in enumerate(many):
        assert told["losses"] == many[0]["losses"]  # every rank reports the whole batch
        assert told["metrics"] == many[0]["metrics"]
        assert told["wrote"] == [rank == 0, rank == 0]
    for got, expected in zip(many[0]["metrics"], one["metrics"], strict=True):
        assert got == pytest.approx(expected, abs=wanted)


def validator(rank: int, world_size: int, uri: str, folder: str) -> None:
    """One rank of a validation as `tintlab train` makes it."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting{world_size}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    torch.manual_seed(0)
    model = Colorizer(CONFIG.model, CONFIG.bins).eval()
    metrics, _ = validate(model, open_shards(uri), CONFIG.evaluation)
    Path(folder, f"{world_size}-{rank}.json").write_text(json.dumps(metrics))
    distributed.destroy_process_group()


def test_a_validation_does_not_depend_on_the_number_of_workers(tmp_path, figure):
    uri = data_set(tmp_path / "shards")
    found = []
    for world_size in (1, 2, 3):
        multiprocessing.spawn(validator, (world_size, uri, str(tmp_path)), nprocs=world_size)
        found += [json.loads(file.read_text()) for file in tmp_path.glob(f"{world_size}-*.json")]
    assert len(found) == 6
    worst = max(abs(told[name] - value) for told in found for name, value in found[0].items())
    printed = {table(["metric", "value"], sorted(told.items())) for told in found}
    figure(
        "Training",
        f"validation with 1, 2 and 3 workers, {', '.join(found[0])}",
        f"{len(printed)} table printed; figures differ by at most {worst:.1e}",
        "1",
    )
    assert len(printed) == 1


def test_gradients_under_fsdp_are_those_of_one_worker(tmp_path):
    """The moments after one step, which are linear in the gradient, before chaos sets in."""
    uri = small_shards(tmp_path / "shards")
    one_step = {**EVERY_LOSS, "training.steps": 1}
    trained(1, uri, tmp_path / "one", one_step, 2)
    trained(2, uri, tmp_path / "many", {**one_step, "training.parallelism": "fsdp"}, 1)
    one, many = (
        load_file(Checkpoints(tmp_path / name / "checkpoints").at(1) / OPTIMIZER)
        for name in ("one", "many")
    )
    assert max(moment.abs().max() for moment in one.values()) > 1e-3
    for name, moment in one.items():
        torch.testing.assert_close(many[name], moment, rtol=1e-5, atol=1e-7)


def test_one_worker_goes_on_from_the_checkpoint_of_two_that_shared_the_model(tmp_path):
    uri = small_shards(tmp_path / "shards")
    # A rate that does not depend on how many steps there will be.
    whole = {"schedule.kind": "constant"}
    half = {**whole, "training.parallelism": "fsdp", "training.steps": 25}
    trained(2, uri, tmp_path / "moved", half, 1)
    (tmp_path / "moved" / "meeting").unlink()
    [moved] = trained(1, uri, tmp_path / "moved", whole, 1)
    [one] = trained(1, uri, tmp_path / "one", whole, 1)
    assert len(moved["losses"]) == 25
    assert moved["losses"] == pytest.approx(one["losses"][25:], abs=1e-5)
