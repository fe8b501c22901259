"""Terms of the training loss, and the figure everything is compared by: bits per dimension.

Every position of the chroma grid has two dimensions, a and b, whichever bins describe them. So a
position costs the sum of its C cross-entropies, and a photo's bits per dimension is that cost over
the whole grid, in bits, divided by 2 * h * w: factored (C = 2) and joint (C = 1) bins compare.
"""

import math

from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.nn import functional as F

DIMENSIONS = 2  # a and b

HUBER_AB = 5.0
"""Where the pixel loss turns from squared to absolute error, in ab units: about the error that
upsampling makes at edges, which must not outweigh everything else."""


def bits_per_dim(
    logits: Float[Tensor, "B C K h w"], tokens: Int64[Tensor, "B C h w"]
) -> Float[Tensor, "B"]:
    """Bits per dimension that the model needs for each photo's colours.

    Source: van den Oord et al. 2016, Pixel Recurrent Neural Networks, sec. 5.1 (the unit).
    """
    nats = token_nats(logits.movedim(2, -1), tokens)
    return bits_of(nats.sum(dim=(1, 2, 3)), positions=tokens[0, 0].numel())


def bits_of(nats: Float[Tensor, "B"], positions: int) -> Float[Tensor, "B"]:
    """Bits per dimension of photos whose colours at so many positions cost so many nats."""
    return nats / (math.log(2) * DIMENSIONS * positions)


def token_nats(
    logits: Float[Tensor, "*tokens K"], tokens: Int64[Tensor, "*tokens"]
) -> Float[Tensor, "*tokens"]:
    """Cross-entropy of each token; half precision is computed in float32."""
    logits = at_least_float32(logits)
    return F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), reduction="none").view_as(
        tokens
    )


def smoothed_nats(
    logits: Float[Tensor, "*tokens K"],
    tokens: Int64[Tensor, "*tokens"],
    targets: Float32[Tensor, "K K"],
) -> Float[Tensor, "*tokens"]:
    """Cross-entropy under a target distribution for each token, the row of its true bin.

    A bin one step off is nearly right, and plain cross-entropy calls it as wrong as any other.
    Source: Zhang et al. 2016, Colorful Image Colorization, sec. 2.1 (soft encoding).
    """
    log_probability = at_least_float32(logits).log_softmax(dim=-1)
    return -(targets[tokens] * log_probability).sum(dim=-1)


def pixel_huber(
    ab: Float[Tensor, "B 2 H W"], truth: Float[Tensor, "B 2 H W"]
) -> Float[Tensor, "B"]:
    """Mean Huber loss of each photo in ab units: about the mean absolute error where it is large.

    Source: Huber 1964; Zhang et al. 2017, Real-Time User-Guided Colorization.
    """
    loss = F.huber_loss(at_least_float32(ab), truth, reduction="none", delta=HUBER_AB)
    return loss.mean(dim=(1, 2, 3)) / HUBER_AB


def at_least_float32(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """A bf16 log-sum-exp or colour would lose the third digit."""
    return x.float() if x.element_size() < 4 else x
