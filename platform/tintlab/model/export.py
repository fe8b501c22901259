"""The parts of a colorizer that are one forward pass, as programs that need none of this code.

    encoder.pt2      L (B, 1, H, W) in [0, 100] -> what the decoder reads, (B, D, h, w)
    upsampler.pt2    coarse ab (B, 2, h, w), the L the model looked at (B, 1, H, W), the photo's own
                     L (B, 1, rows, columns) -> its ab (B, 2, rows, columns)

H and W are `chroma_stride` times h and w; batch and sizes are free. The upsampler's program has no
bands, so its memory grows with the photo: about 600 bytes a pixel. The decoder is no program: a
colour is drawn position after position, and what makes that fast is a cache and a loop around it.
Source: PyTorch 2 documentation, torch.export.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim

from tintlab.data.storage import resolve, written
from tintlab.errors import IntegrityError
from tintlab.model.colorizer import Colorizer, evaluation_mode
from tintlab.model.upsampler import Upsampler

ENCODER, UPSAMPLER = "encoder.pt2", "upsampler.pt2"
TOLERANCE = 1e-4
"""Largest difference from the model's own values, relative to the largest of them."""


class Sizes(NamedTuple):
    """What a program is traced or tried with."""

    photos: int
    grid: tuple[int, int]
    photo: tuple[int, int]


TRACED, TRIED = Sizes(2, (5, 6), (37, 41)), Sizes(1, (7, 4), (23, 30))


class _Encoder(nn.Module):
    def __init__(self, model: Colorizer) -> None:
        super().__init__()
        self.encoder, self.stride = model.encoder, model.stride

    def forward(self, L: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B D h w"]:
        return self.encoder(L)


class _Upsampler(nn.Module):
    def __init__(self, model: Colorizer) -> None:
        super().__init__()
        self.encoder, self.upsampler, self.stride = model.encoder, model.upsampler, model.stride

    def forward(
        self,
        ab: Float[Tensor, "B 2 h w"],
        small_L: Float[Tensor, "B 1 H W"],
        L: Float[Tensor, "B 1 rows columns"],
    ) -> Float[Tensor, "B 2 rows columns"]:
        if isinstance(self.upsampler, Upsampler):
            return self.upsampler(ab, L, self.encoder.skips(small_L), band_pixels=None)
        return self.upsampler(ab, L)


def export_model(model: Colorizer, folder: Path) -> dict[str, float]:
    """Write both programs, each once it was read back and tried at sizes it was not traced with.

    Returns: by file, the largest difference from the model's own values, relative to the largest.
    Raises: IntegrityError: a program differs by more than TOLERANCE; nothing of it is written.
    """
    batch, rows, columns = Dim("batch"), Dim("rows"), Dim("columns")
    coarse = {0: batch, 2: rows, 3: columns}
    small = {0: batch, 2: model.stride * rows, 3: model.stride * columns}
    photo = {0: batch, 2: Dim("photo_rows"), 3: Dim("photo_columns")}
    with evaluation_mode(model), torch.no_grad():
        return {
            ENCODER: _exported(_Encoder(model), folder / ENCODER, (small,)),
            UPSAMPLER: _exported(_Upsampler(model), folder / UPSAMPLER, (coarse, small, photo)),
        }


def _exported(
    module: _Encoder | _Upsampler, file: Path, shapes: tuple[dict[int, Any], ...]
) -> float:
    """Write the program of a module; how far it is from the module."""
    traced, tried = (_inputs(module, sizes) for sizes in (TRACED, TRIED))
    program = torch.export.export(module, traced, dynamic_shapes=shapes)
    content = io.BytesIO()
    torch.export.save(program, content)
    content.seek(0)
    expected = module(*tried)
    got = torch.export.load(content).module()(*tried)
    difference = float((got - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        raise IntegrityError(
            f"{file.name} would differ from the model by {difference:.2g} of its largest value, "
            f"more than {TOLERANCE:g}; it was not written"
        )
    with written(*resolve(str(file))) as stream:
        stream.write(content.getvalue())
    return difference


def _inputs(module: _Encoder | _Upsampler, sizes: Sizes) -> tuple[Tensor, ...]:
    """Grey noise and colours of it, the same in every call."""
    draw = torch.Generator().manual_seed(0)
    stride = module.stride
    small_L, L = (
        100 * torch.rand(sizes.photos, 1, *size, generator=draw)
        for size in (tuple(stride * side for side in sizes.grid), sizes.photo)
    )
    ab = 40 * torch.randn(sizes.photos, 2, *sizes.grid, generator=draw)
    return (small_L,) if isinstance(module, _Encoder) else (ab, small_L, L)
