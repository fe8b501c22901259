"""A setting that is wrong is refused in one line that names it; a right one survives every form."""

import json
from pathlib import Path

import pytest

from tintlab.config import ExperimentConfig, Workspace, load_config, to_json
from tintlab.errors import ConfigError
from tintlab.settings import ModelConfig


def test_the_logged_form_loads_back_to_the_same_config(tmp_path: Path) -> None:
    config = ExperimentConfig().replaced({"model.depth": 7, "schedule.kind": "triangular2"})
    file = tmp_path / "config.json"
    file.write_text(to_json(config))
    assert load_config(file) == config


def test_a_file_may_leave_out_what_keeps_its_default(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model:\n  depth: 2\n")
    assert load_config(file) == ExperimentConfig(model=ModelConfig(depth=2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: {dept: 2}", r"unknown config key 'model.dept'; did you mean model.depth"),
        ("modle: {depth: 2}", r"unknown config key 'modle'; did you mean model"),
        ("model: {depth: 0}", r"model.depth must be greater than or equal to 1, got 0"),
        ("model: [", r"is neither YAML nor JSON"),
        ("- 1", r"a config is a mapping of sections, got list"),
        ("training: {batch_size: 10, workers: 4}", r"multiple of .* = 4, got 10; use 8 or 12"),
        ("data: {crop_px: 66}", r"data.crop_px must be a multiple .*=4, got 66; use 64 or 68"),
        ("schedule: {base_lr: 0.5}", r"base_lr must not exceed schedule.peak_lr"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message) as refused:
        load_config(file)
    assert "\n" not in str(refused.value)


def test_every_field_explains_itself() -> None:
    for section in ExperimentConfig.model_fields.values():
        assert isinstance(section.annotation, type)
        for name, field in section.annotation.model_fields.items():  # type: ignore[attr-defined]
            assert field.description, name


def test_flat_keys_rebuild_the_config() -> None:
    config = ExperimentConfig().replaced({"optimizer.ema_decay": 0.5})
    assert ExperimentConfig().replaced(dict(config.flat())) == config
    assert json.loads(to_json(config))["optimizer"]["ema_decay"] == 0.5


def test_the_workspace_is_absolute_and_a_uri_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINTLAB_WORKSPACE", "here")
    assert Workspace.at().root == str(Path.cwd() / "here")
    assert Workspace.at("s3://bucket/lab/").root == "s3://bucket/lab"
    assert not Workspace.at("s3://bucket/lab").is_local
