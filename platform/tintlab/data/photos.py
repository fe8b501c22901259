"""Photographs that are on every machine tintlab is installed on: no download needed to try it.

They ship inside the wheels of scikit-image (NASA, Chelsea the cat, coffee, a motorcycle, ...) and
scikit-learn (a Chinese temple, a flower). `motorcycle_right` is left out: it shows the same scene
as `motorcycle_left`, and would leak test pixels into training.
"""

import io
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tintlab.data.decoding.images import Undecodable, decode, resize
from tintlab.data.storage import resolve, written
from tintlab.errors import EnvironmentFault

PHOTOGRAPHS = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/ihc.png"),
    ("skimage", "data/retina.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)
"""Package and path inside it."""

_NAMES = "|".join(re.escape(Path(inside).stem) for _, inside in PHOTOGRAPHS)
_TILE = re.compile(rf"(?P<photograph>{_NAMES})_r\d+_c\d+\.png")

LARGEST_SHORT_SIDE_PX = 512
"""Larger ones (retina, hubble_deep_field) are made smaller, or they would be half of all tiles."""


def packaged_photos() -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """The photographs by name, in a fixed order.

    Raises: EnvironmentFault: a package is not installed, or came without its photographs.
    """
    photos = {}
    for package, inside in PHOTOGRAPHS:
        path = _package_folder(package) / inside
        if not path.is_file():
            raise EnvironmentFault(f"{path} is missing; install {package} from its wheel again")
        decoded = decode(path.read_bytes())
        if isinstance(decoded, Undecodable):
            raise EnvironmentFault(f"{path}: {decoded.message}; install {package} again")
        photos[path.stem] = resize(decoded.rgb, LARGEST_SHORT_SIDE_PX)
    return photos


def write_packaged_photos(folder: Path, tile_px: int = 96) -> list[Path]:
    """Cut every photograph into square tiles that do not overlap and write them as PNG files.

    What does not fill a tile at the right and lower border is left out. A tile that is already
    there is left as it is. Returns the paths, `<photo>_r<row>_c<column>.png`.
    """
    paths = []
    for name, rgb in packaged_photos().items():
        for row in range(rgb.shape[0] // tile_px):
            for column in range(rgb.shape[1] // tile_px):
                top, left = row * tile_px, column * tile_px
                tile = _png(rgb[top : top + tile_px, left : left + tile_px])
                path = folder.absolute() / f"{name}_r{row}_c{column}.png"
                if not path.is_file() or path.read_bytes() != tile:
                    fs, target = resolve(str(path))
                    with written(fs, target) as file:
                        file.write(tile)
                paths.append(path)
    return paths


def scene_of(source: str, photo: str) -> str:
    """What a photo shows: the photograph, for a tile of a packaged one; else the photo itself.

    Tiles of one photograph are alike, and figures on them are no independent evidence.
    Args: source: where the photo came from, as `prepare` was told. photo: its id.
    """
    tile = _TILE.fullmatch(Path(source).name)
    return tile["photograph"] if tile else photo


def _package_folder(package: str) -> Path:
    """Where a package is installed, without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentFault(f"the package {package} is not installed; run make env")
    return Path(spec.submodule_search_locations[0])


def _png(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()
