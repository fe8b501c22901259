"""If these fail, some other number is called FID, or torch-fidelity is given other pictures."""

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tintlab.evaluation import fid as fid_module
from tintlab.evaluation.fid import WEIGHTS, Photos, fid, fid_weights


def picture(number: int) -> np.ndarray:
    """Rows, columns and channels that are all told apart."""
    return (np.arange(5 * 4 * 3).reshape(5, 4, 3) + 60 * number).astype(np.uint8)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for torch-fidelity that keeps what it is asked."""
    asked: list[dict[str, Any]] = []

    def calculate_metrics(**arguments: Any) -> dict[str, float]:
        asked.append(arguments)
        return {"frechet_inception_distance": 12.5}

    module = ModuleType("torch_fidelity")
    module.__spec__ = importlib.machinery.ModuleSpec("torch_fidelity", None)
    module.calculate_metrics = calculate_metrics  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    return asked


def test_there_is_no_fid_without_the_weights(hub: Path, package: list[dict[str, Any]]) -> None:
    assert fid_weights() is None
    assert fid(picture, picture, 3) is None
    assert package == []


def test_there_is_no_fid_without_the_package(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hub / WEIGHTS).write_bytes(b"")
    monkeypatch.setattr(fid_module, "find_spec", lambda _: None)
    assert fid(picture, picture, 3) is None


def test_torch_fidelity_is_given_both_sets_and_the_weights_that_are_there(
    hub: Path, package: list[dict[str, Any]]
) -> None:
    (hub / WEIGHTS).write_bytes(b"")
    assert fid(picture, lambda number: picture(number + 1), 2) == 12.5
    (asked,) = package
    assert asked["feature_extractor_weights_path"] == str(hub / WEIGHTS)  # nothing is downloaded
    assert asked["fid"]
    assert not asked["cuda"]
    for name, shift in (("input1", 0), ("input2", 1)):
        assert len(asked[name]) == 2
        for number in range(2):
            tensor = asked[name][number]
            assert tensor.dtype == torch.uint8
            np.testing.assert_array_equal(
                tensor.numpy().transpose(1, 2, 0), picture(number + shift)
            )


def test_a_single_photo_has_no_fid(hub: Path, package: list[dict[str, Any]]) -> None:
    (hub / WEIGHTS).write_bytes(b"")
    assert fid(picture, picture, 1) is None


def test_photos_end() -> None:
    with pytest.raises(IndexError, match="there are 2 photos, got number 2"):
        Photos(picture, 2)[2]
    assert len([*Photos(picture, 2)]) == 2
