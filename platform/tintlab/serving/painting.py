"""One photo's lightness -> its colours -> the photo in colour, at its own size and lightness.

A photo is looked at on a small copy of its lightness, its colours are sampled on the coarse grid
of that copy, and joined to the lightness of the photo itself at full size.

A picture is the same in any company, to the last bit. Tokens are drawn in float64, since the order
in which float32 sums are added depends on the size of the batch, and one token in a million would
turn out otherwise, with all that follow it. That costs nothing for a photo alone and two thirds
more for a batch, in which sampling is the smaller part. The upsampler works on one photo at a time,
in one thread: more of them add in another order.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image
from torch import Tensor

from tintlab.color.lab import srgb_to_lab
from tintlab.errors import ConfigError, IntegrityError
from tintlab.evaluation.picture import BAND_PIXELS, joined
from tintlab.model.colorizer import Colorizer, evaluation_mode
from tintlab.model.sampler import MAX_POSITIONS, RowDone, best_of, sample_many
from tintlab.serving.drawing import Drawing

LONGEST_ASPECT = 8
"""The small copy is at most this many times longer than its short side, which bounds the work; a
longer photo is squeezed along its length for the model's eyes only. It is squeezed more where the
sampler's largest grid demands it, see `tintlab.model.sampler.MAX_POSITIONS`."""


class Colored(NamedTuple):
    """A coloured photo, and at how many pixels the chroma had to be reduced to keep lightness."""

    rgb: UInt8[np.ndarray, "H W 3"]
    reduced_pixels: int


def exact(model: Colorizer) -> Colorizer:
    """The model as tokens are drawn from it: in float64."""
    return copy.deepcopy(model).double()


def drawn(
    exact_model: Colorizer,
    seen: Sequence[Float32[np.ndarray, "small_H small_W"]],
    seeds: Sequence[int],
    drawing: Drawing,
    row_done: RowDone | None = None,
) -> Int64[Tensor, "B S C h w"]:
    """Tokens of each sample of photos of equal small copies; no photo's depend on the others'.

    Args: exact_model: see `exact`. seen: see `small_copy`. row_done: see `model.sampler.sample`.
    Raises: IntegrityError: the model's logits are not finite.
    """
    device = next(exact_model.parameters()).device
    L = torch.from_numpy(np.stack(seen)[:, None]).to(device, torch.float64)
    rule, draws = drawing.rule, drawing.draws
    if drawing.best_of > 1:
        best = best_of(exact_model, L, draws, seeds=seeds, **rule._asdict(), row_done=row_done)
        return best.tokens[:, None]
    return sample_many(exact_model, L, draws, seeds=seeds, **rule._asdict(), row_done=row_done)


def painted(
    model: Colorizer,
    L: Float32[np.ndarray, "H W"],
    seen: Float32[np.ndarray, "small_H small_W"],
    tokens: Int64[Tensor, "C h w"],
) -> Colored:
    """The photo of a lightness in the colours of tokens. Call inside `one_thread`.

    Args: seen: the small copy that the tokens were drawn for.
    Raises: IntegrityError: the upsampler's colours are not finite.
    """
    device = next(model.parameters()).device
    small, full = (torch.from_numpy(plane)[None, None].to(device) for plane in (seen, L))
    with evaluation_mode(model), torch.no_grad():
        coarse = model.bins.decode(tokens[None].to(device))
        ab = model.upsample_to(coarse, small, full)[0].cpu().numpy()
    if not np.isfinite(ab).all():
        raise IntegrityError(
            "the model's upsampler gives colours that are not finite; its weights are damaged "
            "or its training diverged: use another checkpoint"
        )
    return Colored(*joined(L, ab))


def colorize_photo(
    model: Colorizer,
    rgb: UInt8[np.ndarray, "H W 3"],
    short_side_px: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> UInt8[np.ndarray, "H W 3"]:
    """Colour a photo, grey or not: its own lightness and size are kept, its colours are not used.

    Args: short_side_px: short side of the small copy that the model looks at, at best what it was
        trained on; temperature: 0 takes the most likely bin; seed: same seed, same picture.
    Raises: ConfigError: short_side_px is not a multiple of the chroma stride.
    """
    return next(colored_samples(model, rgb, short_side_px, Drawing(temperature), seed)).rgb


def colored_samples(
    model: Colorizer,
    rgb: UInt8[np.ndarray, "H W 3"],
    short_side_px: int,
    drawing: Drawing,
    seed: int,
) -> Iterator[Colored]:
    """A photo in each of `drawing.samples`, one at full size at a time.

    Args, Raises: see `colorize_photo`.
    """
    drawing.check()
    require_short_side(model, short_side_px)
    L = lightness(rgb)
    seen = small_copy(L, short_side_px, model.stride)
    with one_thread():
        [tokens] = drawn(exact(model), [seen], [seed], drawing)
    for sample in tokens:
        with one_thread():
            colored = painted(model, L, seen, sample)
        yield colored


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: pictures are the same on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def lightness(rgb: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W"]:
    """L of every pixel; a large photo's a and b, which nobody reads, are never there all at once.

    So the most memory that a photo takes is set by the number of pixels that `decode` accepts
    (`decoding.images.MAX_PIXELS`): L, two planes of ab and their bands, and the picture.
    """
    L = np.empty(rgb.shape[:2], np.float32)
    band = max(1, BAND_PIXELS // rgb.shape[1])
    for top in range(0, len(L), band):
        L[top : top + band] = srgb_to_lab(rgb[top : top + band])[..., 0]
    return L


def small_copy(
    L: Float32[np.ndarray, "H W"], short_side_px: int, stride: int
) -> Float32[np.ndarray, "small_H small_W"]:
    """The lightness as the model looks at it: area means, sides multiples of the chroma stride."""
    height, width = L.shape
    aspect = min(max(height, width) / min(height, width), LONGEST_ASPECT)
    short_cells = short_side_px // stride
    long_cells = min(max(1, round(short_cells * aspect)), MAX_POSITIONS // short_cells)
    long_side_px = long_cells * stride
    small_h, small_w = (
        (short_side_px, long_side_px) if height <= width else (long_side_px, short_side_px)
    )
    # BOX is the exact mean over the area of each target pixel; upwards it would show blocks.
    grows = small_h * small_w > height * width
    kernel = Image.Resampling.BILINEAR if grows else Image.Resampling.BOX
    resized = Image.fromarray(L).resize((small_w, small_h), kernel)
    return np.array(resized, np.float32)  # a copy: Pillow's own memory is read-only


def require_short_side(model: Colorizer, short_side_px: int) -> None:
    """Refuse a short side that the chroma grid does not divide, or too large a grid.

    Raises: ConfigError: names the nearest sides that work.
    """
    stride = model.stride
    largest = math.isqrt(MAX_POSITIONS) * stride
    if short_side_px > largest:
        raise ConfigError(
            f"short_side_px must be at most {largest}, got {short_side_px}; the photo keeps its "
            "own size whatever the size of the copy that the model looks at"
        )
    if short_side_px < stride or short_side_px % stride:
        low = short_side_px // stride * stride
        nearest = f"{low} or {low + stride}" if low > 0 else f"{stride}"
        raise ConfigError(
            f"short_side_px must be a multiple of chroma_stride={stride}, "
            f"got {short_side_px}; use {nearest}"
        )
