"""demo: the packaged photographs through every stage, to a champion and coloured photos."""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines import evaluate, prepare, promote, sweep
from tintlab.command import StageCommand
from tintlab.console import Result, say

SETTINGS = {"training.steps": 720, "training.eval_every_steps": 240}
"""Long enough for colours worth looking at, short enough for a few minutes on 2 cores."""


@dataclass(frozen=True)
class Command(StageCommand):
    """Every stage on the packaged photographs; run again, it only does what is missing."""

    num_trials: int = 4
    """Trials of the sweep."""


def main(command: Command) -> Result:
    """Run the stages one after the other and say what came out."""
    from tintlab.cluster import connect
    from tintlab.data.photos import write_packaged_photos
    from tintlab.serving.showcase import showcase, story

    start_s, place, root = time.monotonic(), command.place, command.place.root
    photos = Path(root) / "photos"
    base = sweep.defaults(["first_look"]).experiment.replaced(SETTINGS)
    if command.dry_run:
        return sweep.main(sweep.Command(space="first_look", experiment=base, dry_run=True))
    write_packaged_photos(photos)
    with connect(place):
        say("1/5 prepare: the packaged photographs, in tiles -> Lab shards")
        prepared = prepare.main(prepare.Command(sources=(str(photos),), workspace=root))
        say(f"{prepared.text}\n2/5 sweep: search_spaces/first_look.py")
        plan = sweep.Command("first_look", name="demo", experiment=base, workspace=root)
        swept = sweep.main(replace(plan, num_trials=command.num_trials))
    best = swept.data["best"]["run_id"]
    say(f"{swept.text}\n3/5 evaluate run {best} on the test split")
    measured = evaluate.main(evaluate.Command(model=best, workspace=root))
    say(f"{measured.text}\n4/5 promote")
    promoted = promote.main(promote.Command(run=best, workspace=root))
    say(f"{promoted.text}\n5/5 colorize grey photos of the test split")
    shown = showcase(place, place.shards, "@champion", photos=6)
    return story(place, swept, measured, promoted, shown, time.monotonic() - start_s)


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["demo", *sys.argv[1:]]))
