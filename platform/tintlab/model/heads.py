"""From features to logits: the causal chain a -> b of the decoder, and the parallel head."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn, stack
from torch.nn import functional as F


def _zeroed(layer: nn.Linear) -> nn.Linear:
    """A last projection that starts at zero: every bin is equally likely before training."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ColorHead(nn.Module):
    """p(token_c | trunk, the earlier tokens of the same position), one small MLP per channel.

    The trunk is read once for all channels; an earlier token enters the hidden layer of the later
    ones as an embedding, so the causal trunk runs once per position, not once per token.
    """

    def __init__(self, width: int, channels: int, bins: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, channels * width)
        self.earlier = nn.ModuleList(nn.Embedding(bins, width) for _ in range(channels - 1))
        self.out = nn.ModuleList(_zeroed(nn.Linear(width, bins)) for _ in range(channels))

    def forward(
        self, trunk: Float[Tensor, "B h w D"], tokens: Int[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C K h w"]:
        return self.all_logits(trunk, tokens.unbind(1)).permute(0, 3, 4, 1, 2)

    def all_logits(
        self, trunk: Float[Tensor, "*positions D"], tokens: Sequence[Int[Tensor, "*positions"]]
    ) -> Float[Tensor, "*positions C K"]:
        """Logits of every channel, each given the true tokens of the channels before it."""
        hidden = self.read(trunk)
        logits = [self.logits(hidden[c], tokens[:c]) for c in range(self.channels)]
        return stack(logits, dim=-2)

    def read(self, trunk: Float[Tensor, "*positions D"]) -> tuple[Tensor, ...]:
        """Each channel's hidden layer, before this position's own earlier tokens are added."""
        return self.hidden(self.norm(trunk)).chunk(self.channels, dim=-1)

    def logits(
        self, hidden: Float[Tensor, "*positions D"], chosen: Sequence[Int[Tensor, "*positions"]]
    ) -> Float[Tensor, "*positions K"]:
        """Logits of the channel that follows the `chosen` ones of the same position."""
        for channel, token in enumerate(chosen):
            hidden = hidden + self.earlier[channel](token)
        return self.out[len(chosen)](F.silu(hidden))


class ParallelHead(nn.Module):
    """Every token's logits from the encoder alone: auxiliary loss, baseline and drafter."""

    def __init__(self, width: int, channels: int, bins: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.out = _zeroed(nn.Linear(width, channels * bins))

    def forward(self, cond: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C K h w"]:
        return self.all_logits(cond.permute(0, 2, 3, 1)).permute(0, 3, 4, 1, 2)

    def all_logits(self, cond: Float[Tensor, "*positions D"]) -> Float[Tensor, "*positions C K"]:
        """Logits of every channel, at any positions."""
        x = cond + self.second(F.silu(self.first(self.norm(cond))))
        return self.out(F.silu(x)).unflatten(-1, (self.channels, -1))
