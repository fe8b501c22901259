"""Before and after: held-out photos made grey, coloured by a model, and set beside the truth."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tintlab.config import Workspace
from tintlab.console import Result
from tintlab.data.shards import open_shards
from tintlab.evaluation.metrics import colorfulness
from tintlab.evaluation.picture import grey_from, rgb_from, save_png, strip, write_whole
from tintlab.model.artifact import load_model
from tintlab.serving.colorize import colorize_files
from tintlab.serving.drawing import Drawing
from tintlab.serving.painter import Style
from tintlab.tracking.models import find_model

ENLARGED = 2
"""Each pixel of a tile becomes a square of so many pixels, so that people can see the tiles."""


@dataclass(frozen=True)
class Showcase:
    """Where the pictures are."""

    grey: Path
    """Folder of grey photos, what the model was given."""
    colored: Path
    """Folder of the same photos, coloured."""
    picture: Path
    """grey | coloured | truth, one row per photo."""


def showcase(workspace: Workspace, shards_uri: str, model: str, photos: int) -> Showcase:
    """Colour some photos of the test split with a model, through files as a user would.

    They are spread evenly over the more colourful half of the split: what the truth decides, not
    the model.
    """
    shards = open_shards(shards_uri)
    folder = Path(workspace.reports) / "showcase"
    shown = Showcase(folder / "grey", folder / "colored", folder / "before_after.png")
    split = [shards.photo("test", index) for index in range(shards.count("test"))]
    split.sort(key=lambda photo: -colorfulness(rgb_from(photo.L, photo.ab)))
    half = split[: max(photos, len(split) // 2)]
    chosen = np.linspace(0, len(half) - 1, min(photos, len(half))).round().astype(int)
    truths, greys = [], []
    for photo in (half[index] for index in chosen.tolist()):
        truths.append(rgb_from(photo.L, photo.ab))
        greys.append(shown.grey / f"{photo.id}.png")
        save_png(greys[-1], grey_from(photo.L))
    found = find_model(workspace, model)
    colorizer, config = load_model(found.folder)
    short_side_px = min(min(truth.shape[:2]) for truth in truths)
    style = Style(
        short_side_px // colorizer.stride * colorizer.stride,
        Drawing(config.evaluation.temperature),
        config.evaluation.seed,
    )
    report = colorize_files(colorizer, greys, shown.colored, style)
    rows = [
        (_read(grey), _read(colored), truth)
        for grey, colored, truth in zip(greys, report.outputs, truths, strict=True)
    ]
    picture = strip(rows)
    save_png(shown.picture, picture.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1))
    return shown


def story(
    workspace: Workspace,
    swept: Result,
    measured: Result,
    promoted: Result,
    shown: Showcase,
    seconds: float,
) -> Result:
    """What the demo found, as `demo.json` keeps it and as it is printed."""
    data = {
        "seconds": round(seconds, 1),
        "trials": len(swept.data["trials"]),
        "bits_per_dim": measured.data["bits_per_dim"],
        "psnr_db": measured.data["psnr_db"],
        "ssim": measured.data["ssim"],
        "colorfulness_ratio": measured.data["colorfulness_ratio"],
        "champion_version": promoted.data["version"],
        "picture": str(shown.picture),
    }
    content = json.dumps(data, indent=2) + "\n"
    write_whole(Path(workspace.root) / "demo.json", content.encode())
    text = (
        f"{swept.text}\n\n{measured.text}\n\n{promoted.text}\n\n"
        f"grey | coloured | truth: {shown.picture}\n"
        f"all of it in {seconds:.0f} s, kept in {workspace.root}/demo.json\n"
        f"open the runs: mlflow ui --backend-store-uri {workspace.tracking_uri}"
    )
    return Result(data, text)


def _read(file: Path) -> UInt8[np.ndarray, "H W 3"]:
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))
