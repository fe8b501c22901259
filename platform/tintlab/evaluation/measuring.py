"""Everything that is measured on one photo, by whichever process the photo comes to.

Photos are measured in batches, and nothing that comes out depends on which ones: the model computes
in float64, where the rounding of another batch, another number of threads or another machine is
some 1e-15, and figures are then kept to nine digits. A token would be drawn differently only at a
tie that close. On a CPU this costs no more than float32: sampling is bound by the number of its
steps.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int16, Int64

from tintlab.data.batches import centre_crops, require_fit
from tintlab.data.shards import Shards
from tintlab.evaluation.decodes import (
    Measures,
    decoded,
    make_lpips,
    measured,
    painted,
    variants,
)
from tintlab.evaluation.ladder import Priced, evaluating, histogram, priced
from tintlab.evaluation.picture import Triple, grey_from, rgb_from
from tintlab.model.colorizer import Colorizer
from tintlab.settings import EvaluationConfig

DIGITS = 9
"""Significant digits of a figure that a network has to do with."""


class Task(NamedTuple):
    """Photos that are measured together: indices of a split, a batch of them."""

    kind: Literal["histogram", "measure"]
    split: str
    indices: list[int]


@dataclass(frozen=True)
class MeasuredPhoto:
    """What is measured on one photo, and what its picture can be made of again."""

    index: int
    """In its split."""
    priced: Priced
    truth: Measures
    """The true photo against itself: how colourful it is."""
    decodes: dict[str, Measures]
    variants: dict[str, float]
    """Of the sampled picture, see `decodes.variants`."""
    diversity_ab: float | None
    painted: Int16[np.ndarray, "C h w"]
    """Tokens of the sampled picture."""


Done = Int64[np.ndarray, "levels C K"] | list[MeasuredPhoto]
"""What comes of a task: counts of a histogram, or the photos."""


def tasks_of(shards: Shards, split: str, settings: EvaluationConfig) -> list[Task]:
    """What an evaluation has to do: the train split's histogram, and the split's photos.

    Raises: ConfigError: there is no such split, or a photo is smaller than the crop.
    """
    tasks: list[Task] = []
    kinds: tuple[tuple[Literal["histogram", "measure"], str], ...]
    kinds = (("measure", split), ("histogram", "train"))
    for kind, of in kinds:
        require_fit(shards, of, settings.crop_px)
        photos = shards.used(of).tolist()
        for at in range(0, len(photos), settings.batch_size):
            tasks.append(Task(kind, of, photos[at : at + settings.batch_size]))
    return tasks


class Measurer:
    """A model with the photos it is measured on; does tasks. A process needs one."""

    def __init__(self, model: Colorizer, shards: Shards, settings: EvaluationConfig) -> None:
        """Raises: IntegrityError: the file of LPIPS's weights holds others. See `make_lpips`."""
        self.model = copy.deepcopy(model).double()
        self._shards = shards
        self._settings = settings
        self._perceptual = make_lpips(settings)

    def __call__(self, task: Task) -> Done:
        """Do a task.

        Raises: IntegrityError: a shard cannot be read, or the model's logits are not finite.
        """
        batch = centre_crops(self._shards, task.split, task.indices, self._settings.crop_px)
        with evaluating(self.model):
            if task.kind == "histogram":
                return histogram(self.model, batch)
            prices = priced(self.model, batch)
        photos = []
        decodes = decoded(self.model, batch, self._settings)
        for index, price, photo in zip(task.indices, prices, decodes, strict=True):
            photos.append(
                MeasuredPhoto(
                    index=index,
                    priced=Priced(
                        id=price.id,
                        autoregressive=kept(price.autoregressive),
                        parallel=kept(price.parallel),
                        tokens=price.tokens,
                        levels=price.levels,
                        calibration=price.calibration,
                    ),
                    truth=self._measures(photo.truth, photo.truth),
                    decodes={
                        name: self._measures(picture, photo.truth)
                        for name, picture in photo.pictures.items()
                    },
                    variants=variants(photo.pictures["sampled"], photo.truth),
                    diversity_ab=None if photo.diversity_ab is None else kept(photo.diversity_ab),
                    painted=photo.tokens.cpu().numpy().astype(np.int16),
                )
            )
        return photos

    def _measures(self, picture: np.ndarray, truth: np.ndarray) -> Measures:
        if self._perceptual is None:
            return measured(picture, truth, None)
        # LPIPS sees one pair at a time, so it is the same but for the number of threads; float64
        # would cost it several times as much.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return measured(picture, truth, self._perceptual)
        finally:
            torch.set_num_threads(threads)

    def pictures(self, photos: Sequence[MeasuredPhoto], split: str) -> list[Triple]:
        """Grey, sampled and true picture of photos that were measured, without drawing anew."""
        found: list[Triple] = []
        for at in range(0, len(photos), self._settings.batch_size):
            some = photos[at : at + self._settings.batch_size]
            indices = [photo.index for photo in some]
            batch = centre_crops(self._shards, split, indices, self._settings.crop_px)
            tokens = torch.from_numpy(np.stack([photo.painted for photo in some]))
            for i, sampled in enumerate(painted(self.model, batch.L, tokens)):
                own = batch.L[i, 0].numpy()
                found.append((grey_from(own), sampled, rgb_from(own, batch.ab[i].numpy())))
        return found


def kept(figure: float) -> float:
    """A figure to the digits that do not depend on how it was computed."""
    return float(f"{figure:.{DIGITS}g}")
