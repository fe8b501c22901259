"""What a training will take, before it is started."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lab_data_set import noise, row_of, write_data_set
from test_loop import TINY

from tintlab.data.shards import Shards, open_shards
from tintlab.errors import EnvironmentFault
from tintlab.training import probe as probing
from tintlab.training.failures import OutOfMemory
from tintlab.training.objective import Objective
from tintlab.training.probe import PROBE_STEPS, probe


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("shards")
    rows = [row_of(noise(24, 24, seed), "train") for seed in range(8)]
    rows += [row_of(noise(24, 24, 100 + seed), "val") for seed in range(6)]
    write_data_set(str(folder), [rows])
    return open_shards(str(folder))


def test_an_estimate_adds_up_and_leaves_nothing_behind(shards: Shards, tmp_path: Path) -> None:
    config = TINY.replaced({"training.steps": 1000, "training.eval_every_steps": 300})
    torch.manual_seed(7)
    before = torch.get_rng_state()
    files = sorted(Path(shards.uri).iterdir())
    found = probe(config, shards)
    assert found.validations == 4
    assert found.total_s == pytest.approx(1000 * found.step_s + 4 * found.validation_s)
    assert found.images_per_s == pytest.approx(8 / found.step_s)
    assert 0 < found.memory_mb < found.available_mb
    assert found.fits
    assert found.advice == ""
    assert found.gpu_hours == 0
    # weights, their average and two moments of AdamW, in fp32
    assert found.checkpoint_mb == pytest.approx(4 * 4 * found.parameters / 1e6, rel=0.02)
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(Path(shards.uri).iterdir()) == files


def test_one_worker_makes_its_share_of_the_steps(shards: Shards, monkeypatch) -> None:
    batches: list[int] = []
    real = Objective.forward

    def spy(objective, L, ab):
        batches.append(len(L))
        return real(objective, L, ab)

    monkeypatch.setattr(Objective, "forward", spy)
    shared = {"training.workers": 2, "training.accumulation": 2}
    found = probe(TINY.replaced(shared), shards)
    assert (found.images_per_pass, found.passes) == (2, 2)
    assert batches == [2] * 2 * PROBE_STEPS
    assert found.images_per_s == pytest.approx(8 / found.step_s)


def test_what_does_not_fit_says_what_to_change(shards: Shards, monkeypatch) -> None:
    monkeypatch.setattr(probing, "_available_mb", lambda *_: 0.001)
    found = probe(TINY, shards)
    assert not found.fits
    assert "training.accumulation=2" in found.advice
    assert "IT WILL NOT FIT" in found.text
    assert "IT WILL NOT FIT" not in replace(found, advice="").text


def test_not_even_one_step_fits(shards: Shards, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Objective, "forward", full)
    with pytest.raises(OutOfMemory, match=r"out of memory in a trial step, with 8 photos"):
        probe(TINY, shards)


def test_a_gpu_that_is_not_there(shards: Shards, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match="this process sees no GPU"):
        probe(TINY.replaced({"training.gpus_per_worker": 1.0}), shards)
