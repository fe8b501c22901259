"""The `tintlab` command: picks the stage, parses its options, prints its one result."""

import importlib
import os
import sys
from collections.abc import Sequence

from tintlab import __version__
from tintlab.console import Result, parse, run
from tintlab.errors import ConfigError

STAGES = {
    "prepare": "photos -> Lab shards",
    "shards": "look into Lab shards (show), or check every byte of them (verify)",
    "lr-range": "Lab shards -> a base and a peak learning rate to train between",
    "train": "Lab shards -> one tracked run with checkpoints and a model",
    "sweep": "a question (search space) -> ranked trials",
    "spaces": "the questions that a sweep can ask",
    "evaluate": "a model + the test split -> metrics with intervals; or several compared",
    "promote": "a run's model -> the registry's @champion, if it is proven better",
    "rollback": "@champion goes back to the version it was before",
    "models": "the registry's versions, with their aliases and where they came from",
    "export": "a model -> torch.export programs of its encoder and its upsampler",
    "colorize": "grey photos -> coloured photos, with a model of the registry",
    "track": "send what dead processes measured to the tracking store (track sync)",
    "doctor": "what this machine has: versions, devices, paths",
    "demo": "all of it on the packaged photographs, in a few minutes",
}

HELP = f"""usage: tintlab STAGE [OPTIONS]

Experiments with autoregressive image colorizers, distributed by Ray.

{chr(10).join(f"  {name:<10}{text}" for name, text in STAGES.items())}

tintlab STAGE --help lists the options of a stage. All take --workspace, --json.
Exit codes: 0 ok, 2 usage, 3 environment, 4 some items failed, 5 conflict, 6 gate refused,
7 integrity, 8 budget reached, 130 and 143 stopped by a signal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage; returns its exit code."""
    given = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if given[0] in ("-h", "--help", "--version"):
        print(f"tintlab {__version__}" if given[0] == "--version" else HELP)
        return 0
    return run(lambda: _stage(given[0], given[1:]), as_json="--json" in given)


def _stage(name: str, argv: list[str]) -> Result:
    if name not in STAGES:
        raise ConfigError(f"no stage {name!r}; there are {', '.join(STAGES)}")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing leaves the machine
    module = importlib.import_module(f"pipelines.{name.replace('-', '_')}")
    default = module.defaults(argv) if hasattr(module, "defaults") else None
    return module.main(parse(module.Command, argv, f"tintlab {name}", default))


if __name__ == "__main__":
    sys.exit(main())
