"""The training loop: it learns, reports exactly, and is the same whether or not it was stopped."""

import json
import math
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_shards import small_shards

from tintlab.config import ExperimentConfig
from tintlab.data.shards import Shards, open_shards
from tintlab.errors import ConfigError, ConflictError, EnvironmentFault, TintlabError
from tintlab.model.colorizer import Colorizer
from tintlab.settings import TrainingConfig
from tintlab.training.checkpoints import EMA, MANIFEST, OPTIMIZER, WEIGHTS, Checkpoints, read_state
from tintlab.training.failures import (
    OutOfMemory,
    TrainingDiverged,
    TrainingStopped,
    failure_class,
    is_out_of_memory,
)
from tintlab.training.loop import Report, train
from tintlab.training.objective import Objective
from tintlab.training.progress import Progress
from tintlab.training.schedule import learning_rate

TINY = ExperimentConfig().replaced(
    {
        "data.crop_px": 16,
        "evaluation.crop_px": 16,
        "bins.per_channel": 8,
        "model.depth": 1,
        "training.steps": 6,
        "training.batch_size": 8,
        "training.eval_every_steps": 2,
    }
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return open_shards(small_shards(tmp_path_factory.mktemp("shards")))


@pytest.fixture(scope="module")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return open_shards(small_shards(tmp_path_factory.mktemp("others"), seed=1))


@dataclass
class Told:
    """Everything one training said."""

    reports: list[Report] = field(default_factory=list)
    steps: list[Progress] = field(default_factory=list)

    @property
    def losses(self) -> list[float]:
        return [progress.loss for progress in self.steps]


def score(model: Colorizer, shards: Shards) -> tuple[dict[str, float], np.ndarray | None]:
    """A validation that is quick, and that draws from the generator dropout draws from."""
    assert not model.training
    assert not torch.is_grad_enabled()
    torch.rand(3)
    weight = next(iter(model.parameters()))
    return {"val/bits_per_dim": 3.0 + weight.mean().item()}, np.zeros((2, 6, 3), np.uint8)


def run(config, shards, folder, resume=None, validate=score, die_at=None) -> Told:
    """Train, or die in the middle: right after step `die_at`."""
    told = Told()

    def progress(got: Progress) -> None:
        told.steps.append(got)
        if got.step == die_at:
            raise KeyboardInterrupt

    try:
        last = train(config, shards, folder, validate, told.reports.append, resume, progress)
        assert last == told.reports[-1].checkpoint
    except KeyboardInterrupt:
        assert die_at is not None
    return told


def tensors(checkpoint: Path) -> dict[str, str]:
    """The hashes of everything that was learned."""
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    return {name: files[name]["sha256"] for name in (WEIGHTS, EMA, OPTIMIZER)}


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("perf/")}


def test_reports_are_exact_means_over_every_step_since_the_last(shards, tmp_path):
    config = TINY.replaced({"training.steps": 5})
    told = run(config, shards, tmp_path)
    assert [progress.step for progress in told.steps] == [1, 2, 3, 4, 5]
    assert [report.step for report in told.reports] == [2, 4, 5]
    assert [report.finished for report in told.reports] == [False, False, True]
    assert not any(report.repeated for report in told.reports)
    for report, (first, last) in zip(told.reports, [(0, 2), (2, 4), (4, 5)], strict=True):
        assert set(report.metrics) == {
            "train/loss",
            "train/bits_per_dim",
            "train/parallel_bits_per_dim",
            "train/pixel_huber",
            "lr",
            "perf/images_per_s",
            "val/bits_per_dim",
        }
        assert report.metrics["train/loss"] == pytest.approx(np.mean(told.losses[first:last]))
        assert report.metrics["train/loss"] == pytest.approx(
            report.metrics["train/bits_per_dim"]
            + config.loss.parallel * report.metrics["train/parallel_bits_per_dim"]
            + config.loss.pixel * report.metrics["train/pixel_huber"]
        )
        assert report.metrics["lr"] == learning_rate(last - 1, config.schedule, 5)
        assert report.metrics["perf/images_per_s"] > 0
        assert report.panel is not None
        assert report.checkpoint is not None
        assert report.checkpoint.parent == tmp_path
    assert read_state(told.reports[-1].checkpoint).metrics == told.reports[-1].metrics


def test_every_step_has_its_learning_rate(shards, tmp_path):
    config = TINY.replaced({"schedule.kind": "triangular2", "schedule.cycle_steps": 4})
    told = run(config, shards, tmp_path)
    expected = [learning_rate(step, config.schedule, 6) for step in range(6)]
    assert [progress.lr for progress in told.steps] == expected
    assert expected == pytest.approx([1e-4, 1.05e-3, 2e-3, 1.05e-3, 1e-4, 5.75e-4])


def test_learning_rate_zero_moves_no_weight(shards, tmp_path):
    still = {"schedule.kind": "constant", "schedule.warmup_steps": 1, "training.steps": 1}
    config = TINY.replaced(still)
    last = run(config, shards, tmp_path).reports[-1].checkpoint
    torch.manual_seed(config.training.seed)
    initial = Colorizer(config.model, config.bins)
    for name, weight in load_file(last / WEIGHTS).items():
        assert torch.equal(weight, initial.state_dict()[name]), name


def test_four_micro_batches_equal_one_large_batch(shards, tmp_path):
    one = run(TINY, shards, tmp_path / "one")
    four = run(TINY.replaced({"training.accumulation": 4}), shards, tmp_path / "four")
    assert four.losses == pytest.approx(one.losses, rel=1e-5)
    # Adam divides gradients by their size, so that weights whose gradient is rounding error differ
    # freely; its first moment is linear in the gradient, and is what must agree.
    first_step = TINY.replaced({"training.steps": 1})
    moments = [
        load_file(run(config, shards, tmp_path / name).reports[-1].checkpoint / OPTIMIZER)
        for name, config in {
            "one step": first_step,
            "four parts": first_step.replaced({"training.accumulation": 4}),
        }.items()
    ]
    for name in moments[0]:
        torch.testing.assert_close(moments[0][name], moments[1][name], rtol=0, atol=1e-6)
    gradient = torch.cat([t.flatten() for name, t in moments[0].items() if "exp_avg." in name])
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(shards, tmp_path, norm):
    config = TINY.replaced(
        {
            "model.dropout": 0.2,
            "model.encoder_norm": norm,
            "training.accumulation": 2,
            "training.batch_size": 6,  # of 8 photos: no checkpoint is at the end of an epoch
            "data.rotate_degrees": 20.0,
            "data.hue_degrees": 30.0,
            "data.chroma_scale": 1.5,
            "data.lightness_gamma": 1.2,
        }
    )
    through = run(config, shards, tmp_path / "through")
    folder = tmp_path / "stopped"
    dead = run(config, shards, folder, die_at=3)  # one step after a checkpoint: that step is lost
    torch.rand(7)  # another process finds torch's generator elsewhere
    resumed = run(config, shards, folder, resume=Checkpoints(folder).newest())

    assert dead.losses == through.losses[:3]
    assert resumed.losses == through.losses[2:]
    assert tensors(resumed.reports[-1].checkpoint) == tensors(through.reports[-1].checkpoint)
    repeated, *fresh = resumed.reports
    assert repeated.repeated
    assert not repeated.finished
    assert repeated.metrics == dead.reports[-1].metrics
    assert [untimed(report.metrics) for report in fresh] == [
        untimed(report.metrics) for report in through.reports[1:]
    ]


def test_a_cycle_end_is_reported_once_and_resumed_from_bit_for_bit(shards, tmp_path):
    """Cycles end at 4, where it is evaluated anyway, and at 7, where it would not be."""
    plainly = TINY.replaced(
        {
            "schedule.kind": "cosine_restarts",
            "schedule.cycle_steps": 3,
            "schedule.warmup_steps": 1,
            "training.steps": 8,
            "training.eval_every_steps": 4,
        }
    )
    config = plainly.replaced({"training.eval_at_cycle_ends": True})
    plain = run(plainly, shards, tmp_path / "plain")
    through = run(config, shards, tmp_path / "through")
    assert [report.step for report in plain.reports] == [4, 8]
    assert [report.step for report in through.reports] == [4, 7, 8]
    for report, (first, last) in zip(through.reports, [(0, 4), (4, 7), (7, 8)], strict=True):
        assert report.metrics["train/loss"] == pytest.approx(np.mean(through.losses[first:last]))
        assert report.checkpoint is not None
    # Looking more often changes nothing that is learned.
    assert through.losses == plain.losses
    last = tensors(through.reports[-1].checkpoint)
    assert last == tensors(plain.reports[-1].checkpoint)

    folder = tmp_path / "stopped"
    run(config, shards, folder, die_at=8)
    resumed = run(config, shards, folder, resume=Checkpoints(folder).newest())
    assert [(report.step, report.repeated) for report in resumed.reports] == [(7, True), (8, False)]
    assert resumed.losses == through.losses[7:]
    assert tensors(resumed.reports[-1].checkpoint) == last


def test_resuming_what_is_finished_says_the_end_again(shards, tmp_path):
    through = run(TINY, shards, tmp_path)
    again = run(TINY, shards, tmp_path, resume=Checkpoints(tmp_path).newest())
    assert again.steps == []
    assert len(again.reports) == 1
    assert again.reports[0].repeated
    assert again.reports[0].finished
    assert again.reports[0].metrics == through.reports[-1].metrics


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(shards, tmp_path):
    config = TINY.replaced({"model.dropout": 0.2})
    runs = [
        run(config.replaced({"training.seed": seed}), shards, tmp_path / name)
        for name, seed in {"a": 3, "b": 3, "c": 4}.items()
    ]
    a, b, c = (tensors(told.reports[-1].checkpoint) for told in runs)
    assert a == b
    assert a != c


def test_the_callers_random_generator_is_left_alone(shards, tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run(TINY.replaced({"training.steps": 1}), shards, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_differs_between_steps_and_micro_batches(shards, tmp_path, monkeypatch):
    draws: list[float] = []
    real = Objective.forward

    def spy(*arguments):
        draws.append(torch.rand(1).item())
        return real(*arguments)

    monkeypatch.setattr(Objective, "forward", spy)
    run(TINY.replaced({"training.accumulation": 2}), shards, tmp_path)
    assert len(set(draws)) == 12


def test_the_average_follows_its_formula(shards, tmp_path):
    config = TINY.replaced({"training.eval_every_steps": 1, "optimizer.ema_decay": 0.25})
    seen: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []

    def report(got: Report) -> None:
        seen.append((load_file(got.checkpoint / WEIGHTS), load_file(got.checkpoint / EMA)))

    train(config, shards, tmp_path, score, report, None)
    torch.manual_seed(config.training.seed)
    average = Colorizer(config.model, config.bins).state_dict()
    # min(0.25, (1 + t) / (10 + t)) for t = 0, 1, ...
    for (weights, ema), decay in zip(seen, [0.1, 2 / 11, 0.25, 0.25, 0.25, 0.25], strict=True):
        for name in average:
            average[name] = decay * average[name] + (1 - decay) * weights[name]
            torch.testing.assert_close(ema[name], average[name], rtol=1e-5, atol=1e-7)


def poisoned(monkeypatch, call: int, poison) -> None:
    """Let `poison(total, terms)` change what the loss is at its `call`-th call."""
    real, calls = Objective.forward, iter(range(1, 1_000))

    def forward(objective, *arguments):
        total, values = real(objective, *arguments)
        if next(calls) != call:
            return total, values
        total, terms = poison(total, dict(zip(objective.terms, values, strict=True)))
        return total, torch.stack([total.detach(), *list(terms.values())[1:]])

    monkeypatch.setattr(Objective, "forward", forward)


@pytest.mark.parametrize(
    ("term", "poison"),
    [
        (
            "parallel_bits_per_dim is inf",
            lambda total, terms: (
                total * math.inf,
                {**terms, "parallel_bits_per_dim": terms["parallel_bits_per_dim"] * math.inf},
            ),
        ),
        ("loss is nan", lambda total, terms: (total * math.nan, terms)),
        # finite, with a gradient that is not: d sqrt(x) / dx at 0, times 0
        ("gradient norm is nan", lambda total, terms: (total + (total * 0).sqrt(), terms)),
    ],
)
def test_what_is_not_finite_stops_training_before_it_is_learned(
    shards, tmp_path, monkeypatch, term, poison
):
    poisoned(monkeypatch, call=4, poison=poison)
    with pytest.raises(
        TrainingDiverged, match=rf"diverged at step 4: {term} .*lower .*step-00000002\)"
    ) as caught:
        run(TINY, shards, tmp_path)
    assert caught.value.step == 4
    copy = pickle.loads(pickle.dumps(caught.value))  # as Ray carries it to the driver
    assert (str(copy), copy.step, copy.term) == (str(caught.value), 4, caught.value.term)
    # The checkpoint before it is good, and going on from it gives what was to be.
    monkeypatch.undo()
    resumed = run(TINY, shards, tmp_path, resume=Checkpoints(tmp_path).newest())
    through = run(TINY, shards, tmp_path / "through")
    assert tensors(resumed.reports[-1].checkpoint) == tensors(through.reports[-1].checkpoint)


@pytest.mark.parametrize("name", ["val/bits_per_dim", "val/parallel_bits_per_dim"])
def test_an_average_that_is_not_finite_is_never_kept(shards, tmp_path, name):
    def broken(model: Colorizer, data: Shards) -> tuple[dict[str, float], None]:
        return {"val/bits_per_dim": 1.0, "val/psnr_db": math.inf, name: math.nan}, None

    with pytest.raises(TrainingDiverged, match=rf"step 2: {name} is nan .*no checkpoint"):
        run(TINY, shards, tmp_path, validate=broken)
    assert Checkpoints(tmp_path).all() == []


@pytest.mark.parametrize(
    ("last", "best", "kept"), [(2, 1, [2, 5, 6]), (1, 0, [6]), (1, 3, [2, 3, 4, 6])]
)
def test_the_last_checkpoints_and_the_best_are_kept(shards, tmp_path, last, best, kept):
    config = TINY.replaced(
        {
            "training.eval_every_steps": 1,
            "training.keep_last": last,
            "training.keep_best": best,
        }
    )
    bits = iter([3.0, 1.0, 2.0, 2.5, 2.6, 2.7])

    def scripted(model: Colorizer, data: Shards) -> tuple[dict[str, float], None]:
        return {"val/bits_per_dim": next(bits)}, None

    run(config, shards, tmp_path, validate=scripted)
    assert [read_state(path).step for path in Checkpoints(tmp_path).all()] == kept


def test_a_validation_that_leaves_train_mode_behind_changes_nothing(shards, tmp_path):
    def rude(model: Colorizer, data: Shards) -> tuple[dict[str, float], np.ndarray | None]:
        result = score(model, data)
        model.train()
        return result

    config = TINY.replaced({"model.dropout": 0.2})
    polite = run(config, shards, tmp_path / "polite")
    told = run(config, shards, tmp_path / "rude", validate=rude)
    assert tensors(told.reports[-1].checkpoint) == tensors(polite.reports[-1].checkpoint)


def test_bf16_learns_nearly_the_same_with_fp32_weights(shards, tmp_path):
    full = run(TINY, shards, tmp_path / "fp32")
    half = run(TINY.replaced({"training.precision": "bf16"}), shards, tmp_path / "bf16")
    assert half.losses == pytest.approx(full.losses, rel=0.02)
    assert half.losses != full.losses
    for name, weight in load_file(half.reports[-1].checkpoint / WEIGHTS).items():
        assert weight.dtype != torch.bfloat16, name


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model.dropout": 0.1}, ConfigError, "another model: model.dropout was 0.0, got 0.1"),
        ({"bins.per_channel": 4}, ConfigError, "another model: bins.per_channel was 8, got 4"),
        ({"training.batch_size": 16}, ConfigError, "at step 2, 16 photos.*batch_size=16"),
        ({"training.steps": 1}, ConfigError, "at step 2.*training.steps=1 "),
    ],
)
def test_a_checkpoint_of_another_experiment_is_refused(shards, tmp_path, change, error, message):
    run(TINY.replaced({"training.steps": 2}), shards, tmp_path)
    with pytest.raises(error, match=message):
        run(TINY.replaced(change), shards, tmp_path, resume=Checkpoints(tmp_path).newest())


def test_a_checkpoint_of_another_data_set_is_refused(shards, other_shards, tmp_path):
    run(TINY.replaced({"training.steps": 2}), shards, tmp_path)
    with pytest.raises(ConflictError, match=r"was trained on data set .*give the same shards"):
        run(TINY, other_shards, tmp_path, resume=Checkpoints(tmp_path).newest())


def test_starting_anew_over_checkpoints_is_refused(shards, tmp_path):
    run(TINY, shards, tmp_path)
    with pytest.raises(ConflictError, match=r"step-00000006 is later than step 0.*resume from it"):
        run(TINY, shards, tmp_path)


def test_a_gpu_that_is_not_there_is_one_line(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match="gpus_per_worker=1, but this process sees no GPU"):
        run(TINY.replaced({"training.gpus_per_worker": 1.0}), shards, tmp_path)
    assert issubclass(TrainingDiverged, TintlabError)


def test_a_batch_that_does_not_divide_over_the_ranks_names_the_nearest():
    with pytest.raises(
        ValueError, match=r"batch_size=8 does not divide over 3 workers; use 6 or 9"
    ):
        TINY.training.passes(3)


def test_fewer_workers_make_more_passes_and_none_of_more_images():
    training = TrainingConfig(batch_size=24, workers=4, accumulation=2, min_workers=1)
    assert [training.passes(workers) for workers in (4, 3, 2, 1)] == [
        (3, 2),
        (2, 4),  # 8 images each, at most 3 at once
        (3, 4),
        (3, 8),
    ]
    with pytest.raises(
        ValueError, match=r"number of workers from 2 to 4: = 12, got 16; use 12 or 24"
    ):
        TrainingConfig(batch_size=16, workers=4, min_workers=2)
    with pytest.raises(ValueError, match=r"min_workers must not exceed training.workers=2, got 3"):
        TrainingConfig(workers=2, min_workers=3)


def stopped(config, shards, folder, at: int, resume=None) -> Told:
    """Train until asked to stop, which happens during step `at`."""
    told = Told()
    with pytest.raises(
        TrainingStopped, match=rf"stopped after step {at} of {config.training.steps}"
    ):
        train(
            config,
            shards,
            folder,
            score,
            told.reports.append,
            resume,
            told.steps.append,
            stop=lambda: len(told.steps) >= at - 1 - (0 if resume is None else resume_step(resume)),
        )
    return told


def resume_step(checkpoint: Path) -> int:
    return read_state(checkpoint).step


@pytest.mark.parametrize("at", [1, 3, 4])
def test_stopped_on_request_loses_no_step_and_no_digit_of_a_report(shards, tmp_path, at):
    config = TINY.replaced({"model.dropout": 0.2, "training.eval_every_steps": 4})
    through = run(config, shards, tmp_path / "through")
    first = stopped(config, shards, tmp_path / "stopped", at)
    checkpoint = Checkpoints(tmp_path / "stopped").newest()
    assert checkpoint is not None
    assert resume_step(checkpoint) == at == len(first.steps)
    second = run(config, shards, tmp_path / "stopped", resume=checkpoint)
    assert first.losses + second.losses == through.losses
    assert tensors(second.reports[-1].checkpoint) == tensors(through.reports[-1].checkpoint)
    # Means over the steps since the last report count those before the stop, too.
    fresh = [r for r in first.reports + second.reports if not r.repeated]
    assert [untimed(r.metrics) for r in fresh] == [untimed(r.metrics) for r in through.reports]
    assert not any(r.repeated for r in second.reports)  # nothing was reported at the stop


def test_a_stop_at_the_last_step_is_the_end(shards, tmp_path):
    told = Told()
    last = train(
        TINY,
        shards,
        tmp_path,
        score,
        told.reports.append,
        None,
        told.steps.append,
        stop=lambda: len(told.steps) == 5,
    )
    assert resume_step(last) == 6
    assert told.reports[-1].finished


def overflowing(total, terms):
    """Finite, with a gradient that is not."""
    return total + (total * 0).sqrt(), terms


def test_a_step_that_is_not_finite_is_left_out_and_counted_if_that_is_allowed(
    shards, tmp_path, monkeypatch
):
    config = TINY.replaced({"training.skip_non_finite_steps": 1, "schedule.kind": "constant"})
    seen: list[dict[str, torch.Tensor]] = []
    poisoned(monkeypatch, call=4, poison=lambda total, terms: (total * math.nan, terms))

    def report(got: Report) -> None:
        seen.append(load_file(got.checkpoint / WEIGHTS))
        reports.append(got)

    reports: list[Report] = []
    every = config.replaced({"training.eval_every_steps": 1})
    train(every, shards, tmp_path / "run", score, report, None)
    assert [report.metrics["train/skipped_steps"] for report in reports] == [0, 0, 0, 1, 1, 1]
    for name, weight in seen[2].items():
        assert torch.equal(seen[3][name], weight), name  # step 4 moved nothing
    assert any(not torch.equal(seen[4][name], weight) for name, weight in seen[3].items())
    assert "train/loss" not in reports[3].metrics  # nothing was measured
    # The count outlives a restart, and one step more than allowed stops the training.
    state = read_state(Checkpoints(tmp_path / "run").at(6))
    assert state.skipped_steps == 1
    monkeypatch.undo()
    poisoned(monkeypatch, call=1, poison=overflowing)
    longer = every.replaced({"training.steps": 8})
    with pytest.raises(TrainingDiverged, match="step 7: gradient norm is nan"):
        run(longer, shards, tmp_path / "run", resume=Checkpoints(tmp_path / "run").at(6))


def test_fp16_leaves_out_overflows_and_finds_its_scale(shards, tmp_path, monkeypatch):
    full = run(TINY, shards, tmp_path / "fp32")
    config = TINY.replaced({"training.precision": "fp16"})
    half = run(config, shards, tmp_path / "fp16")
    assert half.losses == pytest.approx(full.losses, rel=0.02)
    assert half.losses != full.losses
    scale = read_state(Checkpoints(tmp_path / "fp16").at(6)).loss_scale
    skipped = half.reports[-1].metrics["train/skipped_steps"]
    assert scale == 2.0 ** (16 - skipped)

    poisoned(monkeypatch, call=3, poison=overflowing)
    once = run(config, shards, tmp_path / "once")
    state = read_state(Checkpoints(tmp_path / "once").at(6))
    assert once.reports[-1].metrics["train/skipped_steps"] == state.skipped_steps
    assert state.overflowed_steps == state.skipped_steps  # none of those that are allowed for
    assert state.loss_scale == 2.0 ** (16 - state.skipped_steps)
    # A loss that is not finite is no overflow of a gradient.
    monkeypatch.undo()
    poisoned(monkeypatch, call=3, poison=lambda total, terms: (total * math.nan, terms))
    with pytest.raises(TrainingDiverged, match="step 3: loss is nan"):
        run(config, shards, tmp_path / "nan")


def test_fp16_stopped_and_resumed_equals_uninterrupted(shards, tmp_path):
    config = TINY.replaced({"training.precision": "fp16", "training.steps": 5})
    through = run(config, shards, tmp_path / "through")
    stopped(config, shards, tmp_path / "stopped", at=3)
    resumed = run(
        config, shards, tmp_path / "stopped", resume=Checkpoints(tmp_path / "stopped").newest()
    )
    assert tensors(resumed.reports[-1].checkpoint) == tensors(through.reports[-1].checkpoint)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate"),
    ],
    ids=["gpu", "cpu"],
)
def test_a_failed_allocation_says_what_to_change(shards, tmp_path, monkeypatch, error):
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(Objective, "forward", full)
    with pytest.raises(OutOfMemory) as caught:
        run(TINY, shards, tmp_path)
    assert "out of memory in step 1, with 8 photos in one backward pass" in str(caught.value)
    for change in ("accumulation=2", "loss_chunks=16", "activation_checkpointing", "crop_px"):
        assert change in str(caught.value)
    assert failure_class(pickle.loads(pickle.dumps(caught.value))) == "out_of_memory"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "code"),
        (KeyError("x"), "code"),
        (RuntimeError("[/pytorch/third_party/gloo/x.cc:534] Connection closed by peer"), None),
        (torch.distributed.DistNetworkError("the peer is gone"), None),
        (OSError("no such device"), None),
        (ConflictError("run x is being trained by process 1"), None),
        (EnvironmentFault("the disk is full"), "environment"),
        (ConfigError("depth"), "settings"),
    ],
)
def test_only_what_may_go_well_another_time_is_tried_again(error, kind):
    assert failure_class(error) == (kind or "infrastructure")


def test_a_real_allocation_that_fails_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_channels_last_learns_the_same(shards, tmp_path):
    plain = run(TINY, shards, tmp_path / "plain")
    last = run(TINY.replaced({"training.channels_last": True}), shards, tmp_path / "last")
    assert last.losses == pytest.approx(plain.losses, rel=1e-4)
    for name, weight in load_file(last.reports[-1].checkpoint / WEIGHTS).items():
        assert weight.is_contiguous(), name  # a checkpoint is the same either way


def test_channels_last_stopped_and_resumed_equals_uninterrupted(shards, tmp_path):
    """Moments must lie in memory as their weights do."""
    config = TINY.replaced({"training.channels_last": True})
    through = run(config, shards, tmp_path / "through")
    stopped(config, shards, tmp_path / "stopped", at=3)
    resumed = run(
        config, shards, tmp_path / "stopped", resume=Checkpoints(tmp_path / "stopped").newest()
    )
    assert tensors(resumed.reports[-1].checkpoint) == tensors(through.reports[-1].checkpoint)


def test_channels_last_and_fsdp_exclude_each_other():
    with pytest.raises(ValueError, match="channels_last does not go with"):
        TrainingConfig(channels_last=True, parallelism="fsdp")


def test_a_step_that_is_left_out_moves_no_statistic_of_batch_norm(shards, tmp_path, monkeypatch):
    config = TINY.replaced(
        {
            "training.skip_non_finite_steps": 1,
            "training.eval_every_steps": 1,
            "model.encoder_norm": "batch",
        }
    )
    poisoned(monkeypatch, call=4, poison=lambda total, terms: (total * math.nan, terms))
    seen: list[dict[str, torch.Tensor]] = []
    train(
        config,
        shards,
        tmp_path,
        score,
        lambda r: seen.append(load_file(r.checkpoint / WEIGHTS)),
        None,
    )
    statistics = [name for name in seen[0] if "running" in name]
    assert statistics
    for name in statistics:
        assert torch.equal(seen[3][name], seen[2][name]), name
        assert not torch.equal(seen[4][name], seen[3][name]), name


def test_the_time_left_is_that_of_the_steps_left(shards, tmp_path):
    told = run(TINY, shards, tmp_path)
    for progress in told.steps:
        expected = (6 - progress.step) * 8 / progress.images_per_s
        assert progress.eta_s == pytest.approx(expected)
