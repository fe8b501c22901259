"""demo: the packaged photographs -> shards -> sweep -> evaluation -> @champion -> coloured photos."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines import evaluate, prepare, promote, sweep
from tintlab.command import StageCommand
from tintlab.config import ExperimentConfig
from tintlab.console import Result, say

SETTINGS = {"training.steps": 300, "training.eval_every_steps": 100, "data.crop_px": 64}


@dataclass(frozen=True)
class Command(StageCommand):
    """Every stage on the packaged photographs; run again, it only does what is missing."""

    num_trials: int = 4
    """Trials of the sweep."""


def main(command: Command) -> Result:
    """Run the stages one after the other and say what came out."""
    from tintlab.cluster import connect
    from tintlab.data.photos import write_packaged_photos
    from tintlab.serving.showcase import showcase

    start_s, place, where = time.monotonic(), command.place, command.workspace
    photos = Path(place.root) / "photos"
    say("1/5 prepare: packaged photographs -> tiles -> Lab shards")
    write_packaged_photos(photos)
    with connect(place):
        prepared = prepare.main(prepare.Command(sources=(str(photos),), workspace=where))
        say(f"{prepared.text}\n2/5 sweep lr_cycles")
        defaults = sweep.defaults(["lr_cycles"])
        base = defaults.experiment.replaced(SETTINGS)
        swept = sweep.main(
            sweep.Command(
                space="lr_cycles",
                name="demo",
                num_trials=command.num_trials,
                experiment=base,
                workspace=where,
            )
        )
    best = swept.data["best"]["run_id"]
    say("3/5 evaluate the best on the test split")
    measured = evaluate.main(evaluate.Command(model=best, workspace=where))
    say("4/5 promote")
    promoted = promote.main(promote.Command(run=best, workspace=where))
    say("5/5 colorize held-out grey photos")
    shown = showcase(place, place.shards, "@champion", photos=6)
