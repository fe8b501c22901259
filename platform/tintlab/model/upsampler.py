"""From the coarse chroma grid to full resolution, in parallel."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Upsampler(nn.Module):
    """Bilinear, no parameters; L gives the size."""

    def forward(
        self, ab: Float[Tensor, "B 2 h w"], L: Float[Tensor, "B 1 H W"]
    ) -> Float[Tensor, "B 2 H W"]:
        """Each coarse value sits in the middle of its block of pixels (align_corners=False)."""
        return F.interpolate(ab, size=L.shape[2:], mode="bilinear", align_corners=False)
