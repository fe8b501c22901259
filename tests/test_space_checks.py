"""A search space that could not run is refused before anything starts, in one line."""

from pathlib import Path
from typing import Any

import pytest
from lab_data_set import noise, row_of, write_data_set
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from test_loop import TINY

from tintlab.config import ExperimentConfig
from tintlab.data.shards import open_shards
from tintlab.errors import ConfigError
from tintlab.evaluation.validate import validate
from tintlab.sweep.checks import check, reported_metrics
from tintlab.sweep.space import SearchSpace, When
from tintlab.training.loop import Report, train

LR = FloatDistribution(1e-3, 1e-2, log=True)
KIND = CategoricalDistribution(("cosine", "triangular"))
CYCLE = When("schedule.kind", ("triangular",), IntDistribution(50, 90))
ON_LR = {"schedule.peak_lr": LR}
CYCLES = {"schedule.kind": KIND, "schedule.cycle_steps": CYCLE}

KEYS: list[tuple[dict[str, Any], str]] = [
    ({"search": {}}, "the search space is empty"),
    ({"search": {"schedule.peek_lr": LR}}, "did you mean schedule.peak_lr"),
    ({"search": ON_LR, "fixed": {"schedule.peak_lr": 1e-3}}, "both fixed and searched"),
    ({"variants": {"deep": {"model.dept": 2}}}, "did you mean model.depth"),
    (
        {"variants": {"a": {"model.depth": 2}}, "search": {"model.depth": IntDistribution(1, 2)}},
        "both in a variant and searched",
    ),
    (
        {"search": {"schedule.peak_lr": FloatDistribution(1e-3, 1e-3)}},
        "schedule.peak_lr has one value only .* put it in fixed=",
    ),
    ({"search": {"model.depth": IntDistribution(2, 2)}}, "model.depth has one value only"),
    (
        {"search": {"schedule.kind": CategoricalDistribution(("cosine",))}},
        "schedule.kind has one value only",
    ),
]
CONDITIONS: list[tuple[dict[str, Any], str]] = [
    (
        {"search": {"schedule.cycle_steps": When("model.dept", (1,), IntDistribution(2, 3))}},
        "schedule.cycle_steps depends on .* did you mean model.depth",
    ),
    (
        {"search": {"schedule.cycle_steps": CYCLE, "schedule.kind": KIND}},
        "schedule.cycle_steps depends on schedule.kind; list schedule.kind before it",
    ),
    (
        {"search": {"model.depth": When("model.depth", (1,), IntDistribution(1, 2))}},
        "model.depth depends on model.depth; list",
    ),
    (
        {"search": {**CYCLES, "model.depth": When("schedule.kind", (), IntDistribution(1, 2))}},
        "on no value of it",
    ),
    (
        {
            "search": {
                **CYCLES,
                "model.depth": When("schedule.kind", ("one_cycle",), IntDistribution(1, 2)),
            }
        },
        "model.depth depends on schedule.kind='one_cycle', which is never drawn",
    ),
    (
        {
            "search": {
                **CYCLES,
                "model.depth": When("schedule.cycle_steps", (95,), IntDistribution(1, 2)),
            }
        },
        "depends on schedule.cycle_steps=95, which is never drawn",
    ),
]
POINTS: list[tuple[dict[str, Any], str]] = [
    ({"search": ON_LR, "start": ({"schedule.peak_lr": 1.0},)}, "start has .*=1.0, outside Float"),
    ({"search": ON_LR, "start": ({"schedule.peak_lr": "high"},)}, "start has .*='high', outside"),
    ({"search": ON_LR, "start": ({"model.depth": 3},)}, "model.depth, which is not searched"),
    (
        {
            "search": {"model.depth": IntDistribution(2, 8, step=2)},
            "start": ({"model.depth": 3},),
        },
        "start has model.depth=3, outside Int",
    ),
    (
        {"search": CYCLES, "start": ({"schedule.kind": "cosine", "schedule.cycle_steps": 60},)},
        "schedule.cycle_steps=60 with schedule.kind='cosine', which has no schedule.cycle_steps",
    ),
    ({"search": CYCLES, "reference": {"schedule.kind": "constant"}}, "reference has .*outside"),
    (
        {"search": CYCLES, "reference": {"model.depth": 4}},
        "reference has model.depth, which is not",
    ),
    ({"variants": {"a": {"model.depth": 2}, "b": {}}, "reference": {"variant": "c"}}, "outside"),
]
SAMPLERS: list[tuple[dict[str, Any], str]] = [
    ({"search": CYCLES, "sampler": "gp"}, "gp cannot search schedule.cycle_steps.*conditional"),
    ({"search": ON_LR, "sampler": "nsga2"}, "nsga2 is for several objectives"),
    (
        {"search": ON_LR, "sampler": "gp", "objectives": {"val/ssim": "max"}},
        "gp searches for one objective",
    ),
    (
        {"search": ON_LR, "objectives": {"val/bits_per_dim": "min"}},
        "val/bits_per_dim, which is the leading metric",
    ),
    (
        {"search": {"training.seed": IntDistribution(0, 3)}, "replicates": 2},
        "training.seed is searched, and replicates=2",
    ),
    (
        {"variants": {"a": {"training.seed": 1}, "b": {}}, "replicates": 2},
        "training.seed is searched, and replicates=2",
    ),
    ({"search": ON_LR, "exhaustive": True}, "cannot count the values of schedule.peak_lr"),
    (
        {
            "search": {
                "training.seed": IntDistribution(0, 999),
                "schedule.cycle_steps": IntDistribution(2, 200),
            },
            "exhaustive": True,
            "num_trials": None,
        },
        "more than 10,000 combinations",
    ),
    ({"search": ON_LR, "num_trials": None}, "no num_trials; give one"),
]
VALUES: list[tuple[dict[str, Any], str]] = [
    (
        {"search": {"model.depth": IntDistribution(0, 3)}},
        "the config refuses model.depth=0: model.depth must be greater",
    ),
    (
        {"search": {"schedule.kind": CategoricalDistribution(("cosine", "saw"))}},
        "the config refuses schedule.kind='saw': schedule.kind must be",
    ),
    (
        {"variants": {"deep": {"model.depth": 0}, "plain": {}}},
        "refuses variant='deep': model.depth",
    ),
    (
        {"search": {"training.steps": FloatDistribution(10.5, 20.5)}},
        "refuses training.steps=10.5: training.steps must be a valid integer",
    ),
    (  # a few values are refused, in the middle of the range
        {
            "fixed": {"model.chroma_stride": 8},
            "search": {"data.crop_px": IntDistribution(8, 64, step=4)},
        },
        "refuses data.crop_px=12: data.crop_px must be a multiple of",
    ),
    (  # two keys that are each fine: a corner that random draws would not find
        {
            "search": {
                "schedule.peak_lr": FloatDistribution(9.9e-4, 1e-1),
                "schedule.base_lr": FloatDistribution(1e-6, 1e-3),
                "model.depth": IntDistribution(1, 4),
            }
        },
        r"refuses schedule.peak_lr=0.00099 and schedule.base_lr=0.001: schedule.base_lr must not",
    ),
    (  # the same among so many keys that not all combinations can be tried
        {
            "search": {
                "schedule.peak_lr": FloatDistribution(9.9e-4, 1e-1),
                **{
                    f"optimizer.{key}": FloatDistribution(0.1, 0.9)
                    for key in ("beta1", "beta2", "ema_decay", "weight_decay", "clip_norm")
                },
                **{
                    f"loss.{key}": FloatDistribution(0.1, 0.9)
                    for key in ("parallel", "pixel", "rebalance", "smoothing_sigma_ab")
                },
                "schedule.base_lr": FloatDistribution(1e-6, 1e-3),
            }
        },
        r"refuses schedule.peak_lr=0.00099 and schedule.base_lr=0.001: ",
    ),
    (
        {"search": ON_LR, "fixed": {"schedule.base_lr": 1.5e-3}},
        r"refuses schedule.peak_lr=0.001: schedule.base_lr must not exceed",
    ),
]
METRICS: list[tuple[dict[str, Any], str]] = [
    (
        {"search": ON_LR, "metric": "val/psnr"},
        "val/psnr is never reported; did you mean val/psnr_db",
    ),
    ({"search": ON_LR, "metric": "loss"}, "loss is never reported.*did you mean train/loss"),
    (
        {"search": ON_LR, "objectives": {"val/colorfulness": "max"}},
        "did you mean val/colorfulness_ratio",
    ),
    (
        {
            "search": {"model.upsampler": CategoricalDistribution(("learned", "bilinear"))},
            "metric": "train/pixel_huber",
        },
        "train/pixel_huber is never reported with model.upsampler='bilinear'",
    ),
]


@pytest.mark.parametrize(
    ("given", "message"), [*KEYS, *CONDITIONS, *POINTS, *SAMPLERS, *VALUES, *METRICS]
)
def test_a_space_that_cannot_run_is_refused(given: dict[str, Any], message: str) -> None:
    space = SearchSpace(**{"num_trials": 1, **given})
    fixed = {key: value for key, value in space.fixed.items() if key not in space.search}
    base = ExperimentConfig().replaced(fixed)
    with pytest.raises(ConfigError, match=message) as refused:
        check(space, base)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"search": CYCLES, "reference": {"schedule.kind": "cosine"}},
        {"search": CYCLES, "sampler": "gp", "exhaustive": True, "num_trials": None},
        {"search": ON_LR, "sampler": "nsga2", "objectives": {"val/psnr_db": "max"}},
        {
            "search": ON_LR,
            "metric": "train/pixel_huber",
            "objectives": {"perf/images_per_s": "max"},
        },
        {"search": ON_LR, "fixed": {"training.seed": 7}, "replicates": 3},
        {  # one value, but only under a condition: it cannot be in fixed
            "search": {
                "schedule.kind": KIND,
                "schedule.cycle_steps": When(
                    "schedule.kind", ("triangular",), CategoricalDistribution((60,))
                ),
            }
        },
    ],
)
def test_a_space_that_can_run_is_not(given: dict[str, Any]) -> None:
    space = SearchSpace(**{"num_trials": 1, **given})
    check(space, space.base())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model.upsampler": "bilinear", "evaluation.lpips_net": "none"},
        {"loss.perceptual": 1.0, "loss.perceptual_net": "random_features"},
    ],
)
def test_the_metrics_known_beforehand_are_those_that_a_training_reports(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    rows = [row_of(noise(40, 40, seed), "train") for seed in range(4)]
    rows += [row_of(noise(40, 40, 100 + seed), "val") for seed in range(2)]
    write_data_set(str(tmp_path / "shards"), [rows])
    config = TINY.replaced({"training.steps": 2, "evaluation.crop_px": 32, **settings})
    reports: list[Report] = []
    train(
        config,
        open_shards(str(tmp_path / "shards")),
        tmp_path / "run",
        validate=lambda model, shards: validate(model, shards, config.evaluation),
        report=reports.append,
        resume=None,
    )
    assert sorted(reports[-1].metrics) == sorted(reported_metrics(config))
