"""The training loss, and the figure everything is compared by: bits per dimension.

Every position of the chroma grid has two dimensions, a and b, whichever bins describe them. So a
position costs the sum of its C cross-entropies, and a photo's bits per dimension is that cost over
the whole grid, in bits, divided by 2 * h * w: factored (C = 2) and joint (C = 1) bins compare.
"""

import math

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tintlab.config import LossConfig
from tintlab.model.colorizer import Logits

DIMENSIONS = 2  # a and b


def bits_per_dim(
    logits: Float[Tensor, "B C K h w"], tokens: Int64[Tensor, "B C h w"]
) -> Float[Tensor, "B"]:
    """Bits per dimension that the model needs for each photo's colours.

    Source: van den Oord et al. 2016, Pixel Recurrent Neural Networks, sec. 5.1 (the unit).
    """
    return _bits(logits, tokens, label_smoothing=0.0)


def training_loss(
    logits: Logits, tokens: Int64[Tensor, "B C h w"], config: LossConfig
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """What is minimised, and its terms as they are reported, each a mean over the photos.

    The terms `bits_per_dim` and `parallel_bits_per_dim` are detached and never smoothed: label
    smoothing changes what is learned, not how it is measured.

    Source: Szegedy et al. 2016, Rethinking the Inception Architecture, sec. 7 (label smoothing);
        Kumar et al. 2021, Colorization Transformer (the auxiliary parallel loss).
    """
    exact = bits_per_dim(logits.autoregressive, tokens)
    exact_parallel = bits_per_dim(logits.parallel, tokens)
    learned, learned_parallel = exact, exact_parallel
    if config.label_smoothing > 0:
        learned = _bits(logits.autoregressive, tokens, config.label_smoothing)
        learned_parallel = _bits(logits.parallel, tokens, config.label_smoothing)
    # The parallel term stays in the graph at weight 0: DDP waits for a gradient of every weight.
    total = learned.mean() + config.parallel * learned_parallel.mean()
    return total, {
        "bits_per_dim": exact.detach().mean(),
        "parallel_bits_per_dim": exact_parallel.detach().mean(),
    }


def _bits(
    logits: Float[Tensor, "B C K h w"], tokens: Int64[Tensor, "B C h w"], label_smoothing: float
) -> Float[Tensor, "B"]:
    nats = F.cross_entropy(
        logits.flatten(0, 1).float(),  # a bf16 log-sum-exp would lose the third digit
        tokens.flatten(0, 1),
        reduction="none",
        label_smoothing=label_smoothing,
    ).view_as(tokens)
    dimensions = DIMENSIONS * tokens[0, 0].numel()
    return nats.sum(dim=(1, 2, 3)) / (math.log(2) * dimensions)
