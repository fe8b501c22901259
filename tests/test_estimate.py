"""What a sweep will take, before it is started."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lab_data_set import noise, row_of, write_data_set
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from test_loop import TINY

from tintlab.config import ExperimentConfig
from tintlab.data.shards import Shards
from tintlab.sweep import estimate as estimating
from tintlab.sweep.estimate import estimate, least_share, representatives
from tintlab.sweep.plan import plan
from tintlab.sweep.question import Question
from tintlab.sweep.space import SearchSpace, When
from tintlab.training import probe
from tintlab.training.probe import PROBE_STEPS

LR = {"schedule.peak_lr": FloatDistribution(1e-3, 1e-2, log=True)}
CONFIG = TINY.replaced({"training.steps": 90, "training.eval_every_steps": 10})


@pytest.fixture(scope="module")
def shards_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("estimate") / "shards"
    rows = [row_of(noise(24, 24, seed), "train") for seed in range(8)]
    rows += [row_of(noise(24, 24, 100 + seed), "val") for seed in range(4)]
    write_data_set(str(folder), [rows])
    return str(folder)


def asked(**given: Any) -> Question:
    space = SearchSpace(**{"num_trials": 6, **given})
    return Question("mine", "Is it so?", space)


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Probes that cost nothing: a run takes 100 s for each block of depth. Notes depth, threads."""
    seen: list[tuple[int, int]] = []

    def cheap(config: ExperimentConfig, shards: Shards) -> probe.Estimate:
        depth = config.model.depth
        seen.append((depth, torch.get_num_threads()))
        return probe.Estimate(
            device="cpu",
            parameters=1000 * depth,
            images_per_pass=8,
            passes=1,
            step_s=1.0,
            images_per_s=8.0,
            validation_s=1.0,
            validations=1,
            total_s=100.0 * depth,
            gpu_hours=100.0 * depth * config.training.gpus_per_worker / 3600,
            memory_mb=100.0 * depth,
            available_mb=1000.0,
            checkpoint_mb=1.0,
            fits=True,
            advice="",
        )

    monkeypatch.setattr(probe, "probe", cheap)
    monkeypatch.setattr(estimating.os, "cpu_count", lambda: 4)
    return seen


def test_runs_seeds_and_hours_add_up(shards_uri: str, priced: list[tuple[int, int]]) -> None:
    threads = torch.get_num_threads()
    question = asked(search=LR, replicates=2, stopping="none")
    found = estimate(question, CONFIG.replaced({"model.depth": 3}), shards_uri, 6, 2)
    assert priced == [(3, 2)]  # four cores for two trials at once
    assert torch.get_num_threads() == threads
    assert (found.runs, found.trials_at_once, found.resources) == (12, 2, {"CPU": 2.0})
    assert found.hours == pytest.approx((12 * 300 / 2 / 3600,) * 2)
    assert found.gpu_hours == (0, 0)
    assert found.text.splitlines() == [
        "6 trials x 2 seeds = 12 runs, 2 at once, 2 CPU each",
        "every trial: 3,000 parameters, 1000.0 ms a step, 5.0 minutes on the cpu",
        "0.5 hours, without starting",
        "600 MB of memory at once, 1000 there",
    ]


def test_a_searched_size_is_probed_at_its_ends(
    shards_uri: str, priced: list[tuple[int, int]]
) -> None:
    question = asked(search={"model.depth": IntDistribution(2, 5), **LR})
    found = estimate(question, CONFIG, shards_uri, 6, 1)
    assert [depth for depth, _ in priced] == [2, 5]
    share = least_share(question.space, CONFIG.training)
    assert found.hours == pytest.approx((6 * 200 * share / 3600, 6 * 500 / 3600))
    assert "model.depth=5: 5,000 parameters" in found.text
    saved = 1 - share
    assert f"(asha saves between nothing and {saved:.0%} of it" in found.text


def test_variants_are_all_probed_and_counted_alike(
    shards_uri: str, priced: list[tuple[int, int]]
) -> None:
    variants = {"a": {"model.depth": 1}, "b": {"model.depth": 2}, "c": {"model.depth": 6}}
    question = asked(
        variants=variants,
        search={"training.seed": CategoricalDistribution((0, 1))},
        exhaustive=True,
        stopping="none",
    )
    found = estimate(question, CONFIG, shards_uri, 6, 1)
    assert [depth for depth, _ in priced] == [1, 2, 6]
    assert found.hours == pytest.approx((6 * 300 / 3600,) * 2)
    assert [one.label for one in found.probed] == ["variant=a", "variant=b", "variant=c"]


def test_gpus_are_counted_and_what_does_not_fit_is_said(
    shards_uri: str, priced: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    config = CONFIG.replaced({"training.gpus_per_worker": 0.5, "model.depth": 4})
    question = asked(search=LR, stopping="none")
    found = estimate(question, config, shards_uri, 6, 3)
    assert found.resources == {"CPU": 1.0, "GPU": 0.5}
    assert found.gpu_hours == pytest.approx((6 * 400 * 0.5 / 3600,) * 2)
    assert (found.memory_mb, found.available_mb) == (1200, 1000)
    assert "IT WILL NOT FIT: lower --trials-at-once=3" in found.text
    assert "IT WILL NOT FIT" not in replace(found, advice="").text
    alone = estimate(question, config, shards_uri, 6, 1)
    assert alone.advice == ""
    four_workers = config.replaced({"training.workers": 4})
    assert estimate(question, four_workers, shards_uri, 6, 3).trials_at_once == 1


def test_no_more_is_probed_than_a_few_and_both_ends_are(shards_uri: str) -> None:
    space = SearchSpace(
        search={
            "model.depth": IntDistribution(1, 6),
            "model.encoder_attention_blocks": IntDistribution(0, 2),
            "data.crop_px": When("model.depth", (6,), CategoricalDistribution((16, 32, 64))),
            "training.seed": IntDistribution(0, 9),
            **LR,
        },
        num_trials=9,
    )
    points = representatives(space, space.base())
    assert 1 < len(points) <= estimating.MOST_PROBES
    cost = [point["model.depth"] + point["model.encoder_attention_blocks"] for point in points]
    assert (cost[0], cost[-1], points[-1]["data.crop_px"]) == (1, 8, 64)
    assert representatives(SearchSpace(search=LR), space.base()) == [{}]


def test_early_stopping_saves_within_bounds() -> None:
    """With rungs at 10 and 30 of 90 steps: 2/3 make 10, 2/9 make 30, 1/9 make all 90."""
    training = CONFIG.training
    asha = SearchSpace(search=LR)
    expected = (2 / 3 * 10 + 2 / 9 * 30 + 1 / 9 * 90) / 90
    assert least_share(asha, training) == pytest.approx(expected)
    of_two = asha.model_copy(update={"replicates": 2})  # a second seed for the ninth that is left
    assert least_share(of_two, training) == pytest.approx((expected + 1 / 9) / 2)
    assert least_share(asha.model_copy(update={"stopping": "none"}), training) == 1
    median = asha.model_copy(update={"stopping": "median"})
    assert expected < least_share(median, training) < 1
    short = training.model_copy(update={"eval_every_steps": 90})
    assert least_share(asha, short) == 1


def test_a_plan_is_made_of_real_steps_and_changes_nothing(shards_uri: str, tmp_path: Path) -> None:
    workspace = Path(shards_uri).parent
    before = {path: path.stat().st_mtime_ns for path in sorted(workspace.rglob("*"))}
    question = asked(search={"model.depth": IntDistribution(1, 2), **LR}, replicates=2)
    result = plan(question, CONFIG, 6, 2, shards_uri)
    assert {path: path.stat().st_mtime_ns for path in sorted(workspace.rglob("*"))} == before
    shallow, deep = result.data["estimate"]["probed"]
    assert shallow["training"]["step_s"] > 0
    assert shallow["training"]["parameters"] < deep["training"]["parameters"]
    low, high = result.data["estimate"]["hours"]
    assert 0 < low < high < 1
    assert result.data["estimate"]["runs"] == 12
    assert "model.depth        integer 1 to 2" in result.text
    assert CONFIG.training.steps > PROBE_STEPS  # or it would be no estimate


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"search": LR}, "6 trials of 90 steps"),
        (
            {"variants": {"a": {}, "b": {"training.steps": 20}, "c": {"training.steps": 400}}},
            "6 trials of 20 to 400 steps",
        ),
        (
            {"search": {"training.steps": IntDistribution(50, 80)}},
            "trials of integer 50 to 80 step",
        ),
    ],
)
def test_a_plan_says_how_many_steps_its_trials_make(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    assert said in plan(asked(**given), CONFIG, 6, 2, str(tmp_path)).text


def test_without_photos_a_plan_says_why_there_is_no_estimate(tmp_path: Path) -> None:
    result = plan(asked(search=LR), CONFIG, 6, 2, str(tmp_path / "shards"))
    assert "no estimate: " in result.text
    assert "tintlab prepare" in result.data["estimate"]["unknown"]
    assert list(tmp_path.iterdir()) == []
