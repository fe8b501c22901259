"""What the options of the stages have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from tintlab.config import ExperimentConfig, Workspace, load_config
from tintlab.console import option
from tintlab.errors import ConfigError, refuse_secrets


@dataclass(frozen=True, kw_only=True)
class StageCommand:
    """Options that every stage takes."""

    workspace: str | None = None
    """Folder or URI that holds everything; default $TINTLAB_WORKSPACE, else ./workspace."""
    json: bool = False
    """Print exactly one JSON document instead of text, also on error."""
    dry_run: bool = False
    """Resolve, check and print what would happen; change nothing."""

    @property
    def place(self) -> Workspace:
        """The workspace, absolute."""
        return Workspace.at(self.workspace)


@dataclass(frozen=True, kw_only=True)
class ExperimentCommand(StageCommand):
    """Options of stages that train."""

    config: Path | None = None
    """YAML or JSON file with settings; options on the command line win."""
    from_run: str | None = None
    """Take the settings that this MLflow run logged; options on the command line win."""
    shards: str | None = None
    """Lab shards; default the workspace's own."""
    name: str | None = None
    """Name of the run or sweep; the same name with the same settings goes on where it stopped."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )

    def __post_init__(self) -> None:
        """Raises: ConfigError: the name or a setting holds a secret; both are written down."""
        refuse_secrets({"--name": self.name or "", **self.experiment.flat()})

    @property
    def shards_uri(self) -> str:
        """Where the shards are."""
        return self.shards or self.place.shards


def require_photos(given: Sequence[object]) -> None:
    """Refuse a command without a photo to work on."""
    if not given:
        raise ConfigError("no photos given; name photos, or folders of photos")


def base_experiment(
    argv: Sequence[str], base: ExperimentConfig, asked: Sequence[str] = ()
) -> ExperimentConfig:
    """The settings that the command line's options are laid over: `base`, or those of --from-run,
    under what the file of --config says.

    Args: asked: keys that keep the value of `base` whatever a run had.
    Raises: ConfigError: --config or --from-run cannot be read.
    """
    file, run_id = option(argv, "--config"), option(argv, "--from-run")
    if run_id:
        from tintlab.tracking.reading import run_config

        own = base.flat()
        of_run = run_config(Workspace.at(option(argv, "--workspace")), run_id)
        base = of_run.replaced({key: own[key] for key in asked})
    return load_config(Path(file), base) if file else base
