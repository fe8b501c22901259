"""The same photos as the best run, the worst run and the champion paint them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from tintlab.config import Workspace
from tintlab.console import say
from tintlab.data.batches import eval_batches
from tintlab.data.shards import open_shards
from tintlab.errors import TintlabError
from tintlab.evaluation.evaluate import paint
from tintlab.model.artifact import load_model
from tintlab.sweep.answer import completed
from tintlab.sweep.records import SweepRecord
from tintlab.tracking.models import find_model
from tintlab.tracking.registry import champion

Picture = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True)
class ComparedPhotos:
    """One photo: grey, as each model painted it, and as it was; all the same size."""

    id: str
    pictures: tuple[tuple[str, Picture], ...]
    """Each with what to call it, the same for all photos."""


def compared_photos(
    workspace: Workspace,
    record: SweepRecord,
    shards_uri: str,
    photos: int = 4,
    notice: Callable[[str], None] = say,
) -> list[ComparedPhotos]:
    """The first validation photos, painted with the same noise by each model that can be loaded.

    Args: notice: told of each model that is left out, and why.
    Returns: nothing if no model could be loaded, or there is no photo to validate on.
    Raises: TintlabError: the data set cannot be read.
    """
    wanted = _models(workspace, record, notice)
    shards = open_shards(shards_uri)
    crop_px, seed = record.base["evaluation.crop_px"], record.base["evaluation.seed"]
    temperature = record.base["evaluation.temperature"]
    # One batch, as the noise of a photo does not depend on the others in it.
    batch = next(eval_batches(shards, "val", crop_px, photos, limit=photos), None)
    if batch is None or not wanted:
        return []
    painted = {}
    for label, name in wanted.items():
        try:
            model, _ = load_model(find_model(workspace, name).folder)
            if crop_px % model.stride:
                notice(f"{label} is left out of the pictures: it paints no crops of {crop_px} px")
                continue
            painted[label] = paint(model, batch, temperature, seed)
        except TintlabError as error:
            notice(f"{label} is left out of the pictures: {error}")
    if not painted:
        return []
    compared = []
    for at, one in enumerate(next(iter(painted.values()))):
        own = [(label, paintings[at].coloured) for label, paintings in painted.items()]
        compared.append(ComparedPhotos(one.id, (("grey", one.grey), *own, ("truth", one.truth))))
    return compared


def _models(
    workspace: Workspace, record: SweepRecord, notice: Callable[[str], None]
) -> dict[str, str]:
    """What to call each model, with the name under which it is found."""
    runs = [(trial, run) for trial in completed(record) for run in trial.complete if run.run_id]
    runs.sort(key=lambda pair: pair[1].metrics[record.metric], reverse=record.mode == "max")
    best = next((pair for pair in runs if [pair[0]] == completed(record)[:1]), None)
    named: dict[str, str] = {}
    if best:
        trial, run = best
        named[f"best (trial {trial.number}, seed {run.seed})"] = str(run.run_id)
    if best and runs[-1] != best:
        trial, run = runs[-1]
        named[f"worst (trial {trial.number}, seed {run.seed})"] = str(run.run_id)
    try:
        version = champion(workspace)
    except TintlabError as error:
        notice(f"@champion is left out of the pictures: {error}")
        version = None
    if version and version.run_id not in named.values():
        named[f"@champion (version {version.version})"] = f"{version.version}"
    elif version:
        named = {
            f"{label}, @champion" if run_id == version.run_id else label: run_id
            for label, run_id in named.items()
        }
    return named
