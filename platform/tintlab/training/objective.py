"""What a colorizer is trained to minimise, as one module from photos to a loss and its terms.

    loss = bits(decoder) + parallel * bits(parallel head) + pixel * Huber(upsampler)
         + perceptual * distance(softly decoded photo)

Both `bits` are what LossConfig makes of the cross-entropy: rare colours may count more, and targets
may be spread over neighbouring bins. The terms that are reported as bits per dimension are always
the plain ones, so that runs with different losses compare.

The upsampler learns from true coarse colours, not from the decoder's: in the left half of each crop
as they are, in the right half as the nearest bins, which is how a sampler would give them. The
perceptual distance is between the true photo and the one that the decoder's annealed mean gives,
upsampled: its gradient reaches upsampler, decoder and encoder. Being a module that computes
everything inside its own call, it can be wrapped for distributed training.

Sources: Kumar et al. 2021, Colorization Transformer (the auxiliary parallel loss); Zhang et al.
2016 (rebalancing, soft targets, annealed mean); Guadarrama et al. 2017, PixColor (the upsampler's
training).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tintlab.color.lab_tensor import lab_to_rgb_tensor
from tintlab.config import ExperimentConfig
from tintlab.data.shard_format.ab_statistics import AbStatistics
from tintlab.model.colorizer import Colorizer
from tintlab.model.upsampler import Upsampler
from tintlab.training.losses import (
    at_least_float32,
    bits_of,
    pixel_huber,
    smoothed_nats,
    token_nats,
)
from tintlab.training.perceptual import PerceptualDistance, metric_name
from tintlab.training.rebalance import color_weights


class Priced(NamedTuple):
    """What the logits of some positions come to; the logits themselves are not kept."""

    exact: Float[Tensor, "P C"]
    """Plain cross-entropy in nats, without gradient."""
    learned: Float[Tensor, "P C"]
    """The same, or under smoothed targets: with gradient."""
    soft_ab: Float[Tensor, "P two_or_none"]
    """The annealed mean; of no columns where it is not asked for."""


def term_names(config: ExperimentConfig) -> tuple[str, ...]:
    """Names of the terms that the objective of this configuration reports, in their order."""
    names = ["loss", "bits_per_dim", "parallel_bits_per_dim"]
    if config.model.upsampler == "learned":
        names.append("pixel_huber")
    if config.loss.perceptual > 0:
        names.append(metric_name(config.loss.perceptual_net))
    return tuple(names)


class Objective(nn.Module):
    """The training loss of one model; holds no weights but the model's, and frozen ones."""

    targets: Tensor
    """(K, K), or empty without smoothing."""
    weights: Tensor
    """(Q,), or empty without rebalancing."""
    terms: tuple[str, ...]
    """Names of what `forward` reports, in its order."""

    def __init__(
        self, model: Colorizer, config: ExperimentConfig, statistics: AbStatistics
    ) -> None:
        """Args: statistics: of the train split, for rebalancing.

        Raises: ConfigError: the statistics do not fit the bins. EnvironmentFault, IntegrityError:
            the perceptual trunk's file is missing or is another.
        """
        super().__init__()
        loss = config.loss
        self.terms = term_names(config)
        self.model = model
        self.loss = loss
        self.chunks = config.training.loss_chunks
        self.distance = (
            PerceptualDistance(loss.perceptual_net, loss.perceptual_weights)
            if loss.perceptual > 0
            else None
        )
        nothing = torch.zeros(0)
        smooth, rebalance = loss.smoothing_sigma_ab > 0, loss.rebalance > 0
        targets = model.bins.neighbour_targets(loss.smoothing_sigma_ab) if smooth else nothing
        weights = color_weights(model.bins, statistics, loss.rebalance) if rebalance else nothing
        # Not persistent: they follow from the configuration and the data set.
        self.register_buffer("targets", targets, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self, L: Float[Tensor, "B 1 H W"], ab: Float[Tensor, "B 2 H W"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "terms"]]:
        """The loss, and the values of `terms` without gradient, each a mean over the photos."""
        model = self.model
        with torch.autocast(L.device.type, enabled=False):
            coarse = model.coarsen(ab)
            tokens = model.bins.quantize(coarse)
            given = half_quantised(coarse, model.bins.decode(tokens))
        batch, _, rows, columns = tokens.shape
        # First, while nothing else is in memory: it works at full resolution.
        guided = isinstance(model.upsampler, Upsampler)
        pixel = pixel_huber(model.upsample(given, L), ab).mean() if guided else None
        flat = tokens.movedim(1, -1).flatten(0, 2)  # (P, C), P = B * h * w
        cond = model.encode(L)
        trunk = model.decoder.trunk(cond, tokens).flatten(0, 2)  # (P, D)
        head, parallel_head = model.decoder.head, model.parallel_head

        decoder = self._priced(lambda x, t: head.all_logits(x, t.unbind(-1)), trunk, flat, True)
        positions = cond.permute(0, 2, 3, 1).flatten(0, 2)  # (P, D)
        parallel = self._priced(lambda x, _: parallel_head.all_logits(x), positions, flat, False)

        weights = self.weights[model.bins.colors(tokens)].flatten() if len(self.weights) else None
        learned, learned_parallel = (
            self._bits(priced.learned, batch, weights) for priced in (decoder, parallel)
        )
        # Terms stay in the graph at weight 0: DDP waits for a gradient of every weight.
        total = learned + self.loss.parallel * learned_parallel
        reported = [
            self._bits(decoder.exact, batch, None),
            self._bits(parallel.exact, batch, None),
        ]
        if pixel is not None:
            total = total + self.loss.pixel * pixel
            reported.append(pixel)
        if self.distance is not None:
            soft = decoder.soft_ab.unflatten(0, (batch, rows, columns)).permute(0, 3, 1, 2)
            ab_soft = at_least_float32(model.upsample(soft, L))
            with torch.autocast(L.device.type, enabled=False):
                painted, _ = lab_to_rgb_tensor(torch.cat((L, ab_soft), dim=1))
                truth, _ = lab_to_rgb_tensor(torch.cat((L, ab), dim=1))
                distance = self.distance(painted, truth).mean()
            total = total + self.loss.perceptual * distance
            reported.append(distance)
        return total, torch.stack([total, *reported]).detach()

    def _priced(
        self,
        logits_of: Callable[[Tensor, Tensor], Tensor],
        features: Tensor,
        tokens: Tensor,
        decoder: bool,
    ) -> Priced:
        """All positions priced, in chunks if so configured: one chunk's logits at a time."""
        soft = decoder and self.distance is not None

        def price(features: Tensor, tokens: Tensor) -> Priced:
            logits = logits_of(features, tokens)  # (P, C, K)
            nats = token_nats(logits, tokens)
            learned = smoothed_nats(logits, tokens, self.targets) if len(self.targets) else nats
            soft_ab = nats.new_zeros(len(nats), 0)
            if soft:
                soft_ab = self.model.bins.soft_decode(logits[..., None, None])[:, :, 0, 0]
            return Priced(nats.detach(), learned, soft_ab)

        if self.chunks == 1:
            return price(features, tokens)
        parts = [
            Priced(*checkpoint(price, *part, use_reentrant=False))
            for part in zip(features.chunk(self.chunks), tokens.chunk(self.chunks), strict=True)
        ]
        return Priced(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @staticmethod
    def _bits(nats: Tensor, batch: int, weights: Tensor | None) -> Tensor:
        """Mean bits per dimension over photos, each position's cost times its weight."""
        of_positions = nats.sum(dim=1)  # (P,)
        if weights is not None:
            of_positions = of_positions * weights
        positions = len(of_positions) // batch
        return bits_of(of_positions.view(batch, positions).sum(dim=1), positions).mean()


def half_quantised(
    coarse: Float[Tensor, "B 2 h w"], quantised: Float[Tensor, "B 2 h w"]
) -> Float[Tensor, "B 2 h w"]:
    """What the upsampler learns from: exact colours on the left, those of the bins on the right.

    Trained on exact ones alone, it takes the steps between bins for edges; trained on the others
    alone, it smooths what is exact (both measured). Halves of each crop, and not of the batch, make
    the loss that of the same photos however they are shared out, and cost nothing.
    """
    middle = coarse.shape[3] // 2
    return torch.cat((coarse[..., :middle], quantised[..., middle:]), dim=3)
