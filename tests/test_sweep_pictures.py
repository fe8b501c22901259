"""The pictures of a sweep's report: the same photos and noise for each model that is there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_sweeps import sweep, trial
from small_shards import small_shards

from tintlab.config import ExperimentConfig, Workspace
from tintlab.errors import EnvironmentFault, IntegrityError
from tintlab.model.artifact import save_model
from tintlab.model.colorizer import Colorizer
from tintlab.sweep.comparison import compared_photos
from tintlab.sweep.records import SweepRecord
from tintlab.tracking.models import FoundModel
from tintlab.tracking.registry import Version

TINY = ExperimentConfig().replaced(
    {"model.depth": 1, "data.crop_px": 16, "evaluation.crop_px": 16, "evaluation.seed": 3}
)

Told = Version | Exception | None
"""What the registry says of @champion."""


def swept() -> SweepRecord:
    """Three complete trials with two seeds; trial 1 is the best, trial 2 the worst."""
    scores = ([0.8, 0.81], [0.71, 0.7], [0.9, 0.95])
    trials = [trial(number, {"model.depth": number}, own) for number, own in enumerate(scores)]
    return sweep(*trials, base=TINY.flat())


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace.at(str(tmp_path / "ws"))


@pytest.fixture
def shards(tmp_path: Path) -> str:
    return small_shards(tmp_path / "shards", validation=3)


@pytest.fixture
def champion_is(monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """What the registry says; the test may put something else there."""
    told: list[Told] = [None]

    def champion(workspace: Workspace) -> Version | None:
        if isinstance(told[0], Exception):
            raise told[0]
        return told[0]

    monkeypatch.setattr("tintlab.sweep.comparison.champion", champion)
    return told


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names under which a model was looked for; each finds another model."""
    asked: list[str] = []

    def find(workspace: Workspace, name: str) -> FoundModel:
        asked.append(name)
        if name == "13":
            raise IntegrityError("model.safetensors is damaged")
        folder = tmp_path / name
        torch.manual_seed(len(asked))
        model = Colorizer(TINY.model, TINY.bins)
        for weight in model.parameters():  # a new model paints all photos the same
            torch.nn.init.normal_(weight, std=0.3)
        save_model(model, TINY, folder)
        return FoundModel(name, folder, None, None)

    monkeypatch.setattr("tintlab.sweep.comparison.find_model", find)
    return asked


def test_best_worst_and_champion_paint_the_same_photos(
    place: Workspace, shards: str, models: list[str], champion_is: list[Told]
) -> None:
    record = swept()
    champion_is[0] = Version(4, "f" * 32, "0" * 64, ("champion",))
    photos = compared_photos(place, record, shards, photos=2)
    best, worst = record.trials[1].runs[1].run_id, record.trials[2].runs[1].run_id
    assert models == [best, worst, "4"]
    assert len({photo.id for photo in photos}) == 2
    for photo in photos:
        assert [name for name, _ in photo.pictures] == [
            "grey",
            "best (trial 1, seed 1)",
            "worst (trial 2, seed 1)",
            "@champion (version 4)",
            "truth",
        ]
        grey, one, other, _, truth = (picture for _, picture in photo.pictures)
        assert grey.shape == truth.shape == one.shape == (16, 16, 3)
        assert (grey[..., 0] == grey[..., 1]).all()
        assert not np.array_equal(one, other)
        assert not np.array_equal(truth, grey)


def test_the_noise_is_the_same_however_many_photos_there_are(
    place: Workspace, shards: str, models: list[str], champion_is: list[Told]
) -> None:
    record = sweep(trial(0, {"model.depth": 1}, [0.8]), base=TINY.flat())
    (first,) = compared_photos(place, record, shards, photos=1)
    models.clear()  # the same model again
    again = compared_photos(place, record, shards, photos=3)[0]
    assert first.id == again.id
    assert [name for name, _ in first.pictures] == ["grey", "best (trial 0, seed 0)", "truth"]
    for (_, one), (_, other) in zip(first.pictures, again.pictures, strict=True):
        assert np.array_equal(one, other)


def test_a_champion_of_this_sweep_is_painted_once(
    place: Workspace, shards: str, models: list[str], champion_is: list[Told]
) -> None:
    record = swept()
    run_id = record.trials[1].runs[1].run_id
    assert run_id is not None
    champion_is[0] = Version(2, run_id, "0" * 64, ("champion",))
    (photo, *_) = compared_photos(place, record, shards)
    assert [name for name, _ in photo.pictures][1:-1] == [
        "best (trial 1, seed 1), @champion",
        "worst (trial 2, seed 1)",
    ]


@pytest.mark.parametrize(
    ("champion", "notice"),
    [
        (
            Version(13, "f" * 32, "0" * 64, ()),
            "@champion (version 13) is left out of the pictures: model.safetensors is damaged",
        ),
        (
            EnvironmentFault("the store does not answer"),
            "@champion is left out of the pictures: the store does not answer",
        ),
    ],
)
def test_a_champion_that_cannot_be_loaded_is_left_out_with_a_notice(
    champion: Version | Exception,
    notice: str,
    place: Workspace,
    shards: str,
    models: list[str],
    champion_is: list[Told],
) -> None:
    champion_is[0] = champion
    told: list[str] = []
    photos = compared_photos(place, swept(), shards, 4, told.append)
    assert len(photos) == 3
    assert len(photos[0].pictures) == 4
    assert told == [notice]


def test_without_a_model_or_a_photo_there_are_no_pictures(
    place: Workspace,
    shards: str,
    models: list[str],
    champion_is: list[Told],
    tmp_path: Path,
) -> None:
    assert compared_photos(place, sweep(base=TINY.flat()), shards) == []
    assert models == []
    no_photos = small_shards(tmp_path / "other", validation=0)
    assert compared_photos(place, swept(), no_photos) == []
