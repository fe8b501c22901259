"""An experiment as one tree of settings, from and to files, and the workspace; light to import.

The command line is generated from these classes (`--model.depth 8`), a run logs the whole resolved
tree, and `--config FILE` or `--from-run RUN_ID` load it back. A default is written here only.
"""

import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from tintlab.errors import ConfigError
from tintlab.settings import (
    BinsConfig,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    Settings,
    TrainingConfig,
)


class ExperimentConfig(Settings):
    """One experiment, whole: what a run logs and what rebuilds it."""

    data: DataConfig = DataConfig()
    bins: BinsConfig = BinsConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _crops_fit_the_chroma_grid(self) -> "ExperimentConfig":
        stride = self.model.chroma_stride
        for key, px in (("data", self.data.crop_px), ("evaluation", self.evaluation.crop_px)):
            if px % stride:
                low = px // stride * stride
                nearest = f"{low} or {low + stride}" if low else f"{stride}"
                raise ValueError(
                    f"{key}.crop_px must be a multiple of model.chroma_stride={stride}, "
                    f"got {px}; use {nearest}"
                )
        return self

    @model_validator(mode="after")
    def _schedule_fits_the_training(self) -> "ExperimentConfig":
        kind, warmup = self.schedule.kind, self.schedule.warmup_steps
        least = warmup + (3 if kind == "one_cycle" else 0)  # up, down, and below
        if self.training.steps < least:
            raise ValueError(
                f"training.steps must be at least {least} with schedule.kind={kind} and "
                f"schedule.warmup_steps={warmup}, got {self.training.steps}; raise it or lower "
                "warmup_steps"
            )
        return self

    def flat(self) -> dict[str, str | int | float | bool]:
        """The tree as dotted keys, `{"model.depth": 4, ...}`: what a run logs as parameters."""
        return {
            f"{part}.{key}": value
            for part, settings in self.model_dump().items()
            for key, value in settings.items()
        }

    def replaced(self, values: dict[str, Any]) -> "ExperimentConfig":
        """A copy with dotted keys replaced, validated again.

        Raises: ConfigError: a key does not exist (the nearest one is named) or a value is refused.
        """
        tree = self.model_dump()
        known = self.flat()
        for key, value in values.items():
            if key not in known:
                raise ConfigError(unknown_key(key, list(known)))
            part, name = key.split(".")
            tree[part][name] = value
        return parsed(tree, source="overrides")


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that does not exist, naming the nearest that does."""
    from difflib import get_close_matches

    nearest = get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "see tintlab train --help"
    return f"unknown config key {key!r}; {hint}"


def parsed(tree: Any, source: str) -> ExperimentConfig:
    """An experiment from plain data (what YAML or JSON gave).

    Args: source: names where the data came from, for the message.
    Raises: ConfigError: an unknown key, a wrong type or a value out of range; names the key.
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: a config is a mapping of sections, got {type(tree).__name__}")
    try:
        return ExperimentConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation error as one line: key, what is wrong, what was got."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = [*ExperimentConfig.model_fields, *ExperimentConfig().flat()]
        return unknown_key(key, known)
    if problem["type"] == "value_error":  # our own validators say what was got and what to do
        return problem["msg"].removeprefix("Value error, ")
    message = problem["msg"].replace("Input should", "must", 1)
    return f"{key} {message}, got {problem['input']!r}"


def load_config(file: Path, over: ExperimentConfig | None = None) -> ExperimentConfig:
    """An experiment from a YAML or JSON file.

    Args: over: what the file leaves out; the defaults if not given.

    Raises: ConfigError: the file is missing, is not YAML, or holds something the config refuses.
    """
    import yaml

    try:
        tree = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read config {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"{file} is neither YAML nor JSON: {where}") from None
    tree = {} if tree is None else tree
    if over is not None and isinstance(tree, dict):
        whole = over.model_dump()
        for part, settings in tree.items():
            known = part in whole and isinstance(settings, dict)
            whole[part] = {**whole[part], **settings} if known else settings
        tree = whole
    return parsed(tree, source=str(file))


def to_json(config: ExperimentConfig) -> str:
    """The whole config as readable JSON, the form that is logged and stored with a model."""
    return json.dumps(config.model_dump(), indent=2) + "\n"


class Workspace(Settings):
    """Where everything is kept: one root, a local folder or an fsspec URI, made absolute once."""

    root: str
    """Absolute path or URI."""

    @classmethod
    def at(cls, root: str | None = None) -> "Workspace":
        """The workspace at `root`, else at $TINTLAB_WORKSPACE, else at ./workspace."""
        chosen = root or os.environ.get("TINTLAB_WORKSPACE") or "workspace"
        if "://" in chosen:
            return cls(root=chosen.rstrip("/"))
        return cls(root=str(Path(chosen).expanduser().absolute()))

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return "://" not in self.root

    @property
    def shards(self) -> str:
        """Lab shards with their manifest."""
        return f"{self.root}/shards"

    @property
    def pixels(self) -> str:
        """Decompressed pixels of shards, kept between epochs; may be deleted at any time."""
        return f"{self.root}/pixels"

    @property
    def checkpoints(self) -> str:
        """Checkpoints, one folder per run."""
        return f"{self.root}/checkpoints"

    @property
    def spool(self) -> str:
        """What is measured waits here until the tracking server has it."""
        return f"{self.root}/spool"

    @property
    def reports(self) -> str:
        """Pictures and tables made for people."""
        return f"{self.root}/reports"

    @property
    def tracking_uri(self) -> str:
        """$MLFLOW_TRACKING_URI if set, else SQLite in the workspace."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root}/mlflow.db"

    @property
    def artifacts(self) -> str:
        """Root of MLflow's artefacts when the tracking store is the workspace's own."""
        return f"{self.root}/artifacts"

    @property
    def study_url(self) -> str:
        """The sweeps' ledger: Optuna's storage."""
        return f"sqlite:///{self.root}/study.db"
