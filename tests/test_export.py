"""Programs of the encoder and the upsampler, as a stranger with PyTorch alone uses them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.__main__ import main as tintlab
from tintlab.config import ExperimentConfig
from tintlab.model.artifact import save_model
from tintlab.model.colorizer import Colorizer
from tintlab.model.export import ENCODER, UPSAMPLER

ROOT = Path(__file__).parents[1]
TINY = {"model.depth": 1, "model.chroma_stride": 4}


def grown(**settings: Any) -> tuple[Colorizer, ExperimentConfig]:
    """A model of which no layer is silent."""
    config = ExperimentConfig().replaced({**TINY, **settings})
    torch.manual_seed(0)
    model = Colorizer(config.model, config.bins).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model, config


def exported(model: Colorizer, config: ExperimentConfig, folder: Path) -> str:
    """What the command says; in a process of its own, since shapes that are checked while tests run
    are symbols while a program is traced."""
    save_model(model, config, folder / "model")
    command = [sys.executable, "-m", "pipelines", "export", str(folder / "model")]
    done = subprocess.run(
        [*command, "--out", str(folder / "out")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "platform")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "settings",
    [
        {"model.encoder_attention_blocks": 1},
        {"model.encoder_norm": "batch", "model.upsampler": "bilinear", "model.chroma_stride": 1},
    ],
    ids=["attention", "batch norm, bilinear, stride 1"],
)
def test_programs_give_what_the_model_gives(settings: dict[str, Any], tmp_path: Path) -> None:
    model, config = grown(**settings)
    said = exported(model, config, tmp_path)
    assert ENCODER in said
    assert UPSAMPLER in said
    encoder, upsampler = (
        torch.export.load(tmp_path / "out" / name).module() for name in (ENCODER, UPSAMPLER)
    )
    for photos, rows, columns in ((1, 2, 9), (4, 3, 3)):
        small = 100 * torch.rand(photos, 1, model.stride * rows, model.stride * columns)
        photo = 100 * torch.rand(photos, 1, 50, 21)
        coarse = 30 * torch.randn(photos, 2, rows, columns)
        with torch.no_grad():
            torch.testing.assert_close(encoder(small), model.encode(small))
            expected = model.upsample_to(coarse, small, photo)
            torch.testing.assert_close(upsampler(coarse, small, photo), expected)


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(*grown(), tmp_path / "model")
    out = tmp_path / "out"
    assert tintlab(["export", str(tmp_path / "model"), "--out", str(out), "--dry-run"]) == 0
    assert "would be written" in capsys.readouterr().out
    assert not out.exists()


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(*grown(), tmp_path / "model")
    (tmp_path / "file").write_text("in the way")
    code = tintlab(["export", str(tmp_path / "model"), "--out", str(tmp_path / "file" / "out")])
    assert code == 3
    assert "cannot write to" in capsys.readouterr().err
