"""The pictures that one model makes of a photo, and what is measured on each.

    sampled         a draw from the model at the evaluation's temperature
    greedy          the most likely bin at every step
    parallel_mean   the mean of the parallel head's distribution at each position. The decoder has
                    no such picture: its mean exists only given true colours to the left and above
    ceiling_grid    the true colours, brought to the chroma grid and back: the cost of the grid
    ceiling         the same with the bins in between: the true tokens

All are brought to full size by the model's own upsampler and joined to the photo's own lightness.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from tintlab.data.batches import Batch
from tintlab.errors import EnvironmentFault
from tintlab.evaluation.ladder import evaluating
from tintlab.evaluation.metrics import (
    BASICSR_BORDER_PX,
    SSIM_WINDOW_PX,
    basicsr_cropped,
    ciede2000,
    colorfulness,
    colorfulness_absolute,
    colorfulness_difference,
    colorfulness_ratio,
    ct2_truth,
    mean_psnr_db,
    psnr_db,
    ssim,
    ssim_ct2,
)
from tintlab.evaluation.picture import grey_from, rgb_from
from tintlab.model.colorizer import Colorizer
from tintlab.model.noise import photo_seed
from tintlab.model.sampler import sample, sample_many
from tintlab.settings import EvaluationConfig
from tintlab.training.perceptual import TRUNK_FILES, PerceptualDistance, metric_name

DECODES = ("sampled", "greedy", "parallel_mean", "ceiling_grid", "ceiling")


@dataclass(frozen=True)
class Measures:
    """What is measured on one picture against the true photo."""

    psnr_db: float
    """inf where they are equal."""
    ssim: float
    ciede2000: float
    colorfulness: float
    colorfulness_absolute: float
    """CT2's and DDColor's variant."""
    lpips: float | None
    """None where the weights it needs are not on this machine."""


class Decoded(NamedTuple):
    """A photo, and the pictures a model makes of it."""

    id: str
    grey: UInt8[np.ndarray, "_ _ 3"]
    truth: UInt8[np.ndarray, "_ _ 3"]
    pictures: dict[str, UInt8[np.ndarray, "_ _ 3"]]
    """One for each of DECODES."""
    diversity_ab: float | None
    """See `diversity_ab`; None of a single sample."""
    tokens: Int64[Tensor, "C h w"]
    """Of the sampled picture, which `painted` makes again of them."""


def decoded(model: Colorizer, batch: Batch, settings: EvaluationConfig) -> Iterator[Decoded]:
    """Every decode of each photo of a batch."""
    like = next(model.parameters())
    L, ab = batch.L.to(like), batch.ab.to(like)
    seeds = [photo_seed(settings.seed, photo) for photo in batch.ids]
    with evaluating(model):
        many = sample_many(
            model, L, settings.samples_per_photo, seeds=seeds, temperature=settings.temperature
        )
        samples = torch.stack([model.bins.decode(one) for one in many.unbind(1)], dim=1)
        coarse = model.coarsen(ab)
        planes = {
            "sampled": samples[:, 0],
            "greedy": model.bins.decode(sample(model, L, seeds=seeds, temperature=0.0)),
            "parallel_mean": model.bins.soft_decode(
                model.parallel_logits(model.encode(L)), temperature=1.0
            ),
            "ceiling_grid": coarse,
            "ceiling": model.bins.decode(model.bins.quantize(coarse)),
        }
        full = {
            name: model.upsample(plane.to(like), L).cpu().numpy() for name, plane in planes.items()
        }
        spread = diversity_ab(samples)
    for i, photo in enumerate(batch.ids):
        own = batch.L[i, 0].numpy()
        yield Decoded(
            id=photo,
            grey=grey_from(own),
            truth=rgb_from(own, batch.ab[i].numpy()),
            pictures={name: rgb_from(own, plane[i]) for name, plane in full.items()},
            diversity_ab=None if spread is None else spread[i],
            tokens=many[i, 0],
        )


def painted(
    model: Colorizer, L: Float[Tensor, "B 1 H W"], tokens: Int[Tensor, "B C h w"]
) -> list[UInt8[np.ndarray, "H W 3"]]:
    """The pictures of photos' tokens: what `decoded` made of the same ones, without drawing."""
    like = next(model.parameters())
    with evaluating(model):
        ab = model.bins.decode(tokens.to(like.device, torch.int64))
        full = model.upsample(ab.to(like), L.to(like)).cpu().numpy()
    return [rgb_from(own[0].numpy(), plane) for own, plane in zip(L, full, strict=True)]


def diversity_ab(samples: Float[Tensor, "B S 2 h w"]) -> list[float] | None:
    """How far apart the samples of a photo are: the Euclidean distance in ab, in Lab units, mean
    over the positions of the chroma grid and over all pairs of samples; None of one sample."""
    count = samples.shape[1]
    if count < 2:
        return None
    total = samples.new_zeros(len(samples), dtype=torch.float64)
    for first in range(count):
        rest = samples[:, first + 1 :].double() - samples[:, first : first + 1].double()
        total += rest.norm(dim=2).mean(dim=(2, 3)).sum(dim=1)
    pairs: list[float] = (total / (count * (count - 1) / 2)).tolist()
    return pairs


def measured(
    picture: UInt8[np.ndarray, "H W 3"],
    truth: UInt8[np.ndarray, "H W 3"],
    perceptual: PerceptualDistance | None,
) -> Measures:
    """One picture against the true photo."""
    return Measures(
        psnr_db=psnr_db(picture, truth),
        ssim=ssim(picture, truth),
        ciede2000=ciede2000(picture, truth),
        colorfulness=colorfulness(picture),
        colorfulness_absolute=colorfulness_absolute(picture),
        lpips=None if perceptual is None else distance(perceptual, picture, truth),
    )


def variants(
    picture: UInt8[np.ndarray, "H W 3"], truth: UInt8[np.ndarray, "H W 3"]
) -> dict[str, float]:
    """Other systems' variants of PSNR and SSIM, by id; those for which the photo is too small are
    absent."""
    lab_truth = ct2_truth(truth)
    found = {
        "psnr_db_ct2_lab": psnr_db(picture, lab_truth),
        "ssim_ct2": ssim_ct2(picture, truth),
        "ssim_ct2_lab": ssim_ct2(picture, lab_truth),
    }
    if min(truth.shape[:2]) - 2 * BASICSR_BORDER_PX >= SSIM_WINDOW_PX:
        inside = basicsr_cropped(picture), basicsr_cropped(truth)
        found["psnr_db_basicsr_crop4"] = psnr_db(*inside)
        found["ssim_basicsr_crop4"] = ssim(*inside)
    return found


def summarised(of_photos: list[Measures], truth: list[Measures]) -> dict[str, float | None]:
    """Means over photos, and how colourful the pictures are beside the true photos.

    Args: truth: the true photos against themselves, for their colourfulness.
    """
    columns = {name: [asdict(one)[name] for one in of_photos] for name in asdict(of_photos[0])}
    figures: dict[str, float | None] = {
        name: None if values[0] is None else float(np.mean(values))
        for name, values in columns.items()
    }
    figures["psnr_db"] = mean_psnr_db(columns["psnr_db"])
    for name in ("colorfulness", "colorfulness_absolute"):
        true = [asdict(one)[name] for one in truth]
        figures[f"{name}_ratio"] = colorfulness_ratio(columns[name], true)
        # A ratio of means can be 1 while every photo is wrong; this cannot be 0 then.
        gaps = np.abs(np.subtract(columns[name], true))
        figures[f"{name}_gap"] = float(gaps.mean())
        figures[f"{name}_difference"] = colorfulness_difference(columns[name], true)
    return figures


def lpips_name(settings: EvaluationConfig) -> str | None:
    """The LPIPS that is measured, `lpips_alex`; None where its weights are not on this machine.

    Raises: EnvironmentFault: the config names a file of weights that does not exist.
    """
    return None if _lpips_file(settings) is None else metric_name(settings.lpips_net)


def make_lpips(settings: EvaluationConfig) -> PerceptualDistance | None:
    """LPIPS with calibrated weights, on the CPU; see `lpips_name`.

    Raises: IntegrityError: the file holds other weights.
    """
    file = _lpips_file(settings)
    return None if file is None else PerceptualDistance(settings.lpips_net, str(file))


def _lpips_file(settings: EvaluationConfig) -> Path | None:
    if settings.lpips_net == "none":
        return None
    if settings.lpips_weights:
        given = Path(settings.lpips_weights)
        if not given.is_file():
            raise EnvironmentFault(
                f"evaluation.lpips_weights: there is no file {given}; give torchvision's "
                f"{TRUNK_FILES[settings.lpips_net].name}, or leave it empty"
            )
        return given
    cached = Path(torch.hub.get_dir()) / "checkpoints" / TRUNK_FILES[settings.lpips_net].name
    return cached if cached.is_file() else None


def distance(network: PerceptualDistance, picture: np.ndarray, truth: np.ndarray) -> float:
    """One pair at a time: the figure of a photo must not depend on the batch it came in."""
    like = next(network.parameters(), torch.empty(()))
    pair = [torch.from_numpy(rgb).permute(2, 0, 1)[None].to(like) / 255 for rgb in (picture, truth)]
    with torch.inference_mode():
        return float(network(*pair))
