"""The colorizer: encoder, decoder, parallel head and upsampler joined over one chroma grid."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tintlab.color.bins import Bins, make_bins
from tintlab.model.decoder import ColorDecoder
from tintlab.model.encoder import GrayEncoder
from tintlab.model.heads import ParallelHead
from tintlab.model.upsampler import Skips, Upsampler, make_upsampler
from tintlab.settings import BinsConfig, ModelConfig


class Logits(NamedTuple):
    """Logits of every token: the decoder's, given the tokens before it, and the encoder's alone."""

    autoregressive: Float[Tensor, "B C K h w"]
    parallel: Float[Tensor, "B C K h w"]


class Colorizer(nn.Module):
    """p(ab tokens | L) on a grid `stride` times coarser than the photo, and the way back.

    Any height and width: sides that are not multiples of the stride are padded by repeating the
    last row or column, so the grid has ceil(H / stride) x ceil(W / stride) positions, and
    `upsample` crops back.
    """

    def __init__(self, model: ModelConfig, bins: BinsConfig) -> None:
        super().__init__()
        self.model_config = model
        self.bins_config = bins
        self.bins: Bins = make_bins(bins)
        self.stride: int = model.chroma_stride
        channels, count = self.bins.channels, self.bins.count
        self.encoder = GrayEncoder(model)
        self.decoder = ColorDecoder(model, channels, count)
        self.parallel_head = ParallelHead(model.width, channels, count)
        self.upsampler = make_upsampler(model, self.encoder.skip_widths)

    def forward(self, L: Float[Tensor, "B 1 H W"], tokens: Int[Tensor, "B C h w"]) -> Logits:
        """Teacher-forced logits: each token's given the true tokens before it."""
        cond = self.encode(L)
        return Logits(self.decoder_logits(cond, tokens), self.parallel_logits(cond))

    def encode(self, L: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B D h w"]:
        """What the decoder and the parallel head know of the photo; L in [0, 100]."""
        return self.encoder(self.padded(L))

    def decoder_logits(
        self, cond: Float[Tensor, "B D h w"], tokens: Int[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C K h w"]:
        """Logits of each token given the tokens before it in raster order, a before b, and L."""
        return self.decoder(cond, tokens)

    def parallel_logits(self, cond: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C K h w"]:
        """Logits of each token given L alone."""
        return self.parallel_head(cond)

    def coarsen(self, ab: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B 2 h w"]:
        """Area mean over each block of stride x stride pixels."""
        return F.avg_pool2d(self.padded(ab), self.stride)

    def tokens(self, ab: Float[Tensor, "B 2 H W"]) -> Int64[Tensor, "B C h w"]:
        """The tokens of a full-resolution ab plane: what the decoder is trained to predict."""
        return self.bins.quantize(self.coarsen(ab))

    def upsample(
        self, ab: Float[Tensor, "B 2 h w"], L: Float[Tensor, "B 1 H W"]
    ) -> Float[Tensor, "B 2 H W"]:
        """Coarse ab at the size of the photo that the model looks at."""
        height, width = L.shape[2:]
        padded = self.padded(L)
        return self.upsampler(ab, padded, self._skips(padded))[:, :, :height, :width]

    def upsample_to(
        self,
        ab: Float[Tensor, "B 2 h w"],
        small_L: Float[Tensor, "B 1 small_H small_W"],
        L: Float[Tensor, "B 1 H W"],
    ) -> Float[Tensor, "B 2 H W"]:
        """Coarse ab at the size of another photo, of which the model looked at a small copy.

        The grid is spread over the photo itself, not over a padded one.
        Args: small_L: the small copy, its sides multiples of the stride.
        """
        return self.upsampler(ab, L, self._skips(small_L))

    def _skips(self, L: Tensor) -> Skips:
        return self.encoder.skips(L) if isinstance(self.upsampler, Upsampler) else ()

    def padded(self, plane: Float[Tensor, "B c H W"]) -> Float[Tensor, "B c H2 W2"]:
        """The plane with its last row and column repeated up to multiples of the stride."""
        missing_rows, missing_columns = (-side % self.stride for side in plane.shape[2:])
        if not missing_rows and not missing_columns:
            return plane
        return F.pad(plane, (0, missing_columns, 0, missing_rows), mode="replicate")

    def recompute_activations(self) -> None:
        """From now on, keep little of each block and compute the rest again in backward.

        Costs time and changes no value, see `recompute`. It is how a model is trained, not what
        it is, so it is not part of `model_config` and not saved.
        """
        self.encoder.recompute = self.decoder.recompute = True
        if isinstance(self.upsampler, Upsampler):
            self.upsampler.recompute = True

    def blocks(self) -> list[nn.Module]:
        """The parts between which nothing but activations passes, and which hold most weights."""
        encoder, decoder = self.encoder, self.decoder
        return [*encoder.blocks, *encoder.attention, *decoder.blocks, *decoder.attention]

    @property
    def parameter_count(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


@contextmanager
def evaluation_mode(model: Colorizer) -> Iterator[None]:
    """The model without dropout and moving statistics; each part's mode is restored afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
