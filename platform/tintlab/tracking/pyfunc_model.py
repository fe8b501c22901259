"""How `mlflow.pyfunc.load_model("models:/colorizer@champion")` loads a model of ours.

MLflow imports this installed module by the name in the version's MLmodel file; nothing in the
model's folder is executed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from tintlab.color.lab import srgb_to_lab
from tintlab.evaluation.picture import rgb_from
from tintlab.model.artifact import load_model
from tintlab.model.colorizer import Colorizer
from tintlab.model.sampler import sample


class PyfuncColorizer:
    """A colorizer behind MLflow's `predict`."""

    def __init__(self, model: Colorizer) -> None:
        self._model = model

    def predict(
        self, model_input: UInt8[np.ndarray, "B H W 3"], params: dict[str, Any] | None = None
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Colour photos of one size; their own lightness is kept, their colours are not used.

        Args: params: `temperature` (default 1) and `seed` (default 0) of the first photo; each
            following photo's seed is one higher.
        """
        settings = {"temperature": 1.0, "seed": 0} | (params or {})
        L = torch.from_numpy(np.ascontiguousarray(srgb_to_lab(model_input)[..., 0]))[:, None]
        seeds = [int(settings["seed"]) + index for index in range(len(L))]
        tokens = sample(self._model, L, seeds=seeds, temperature=float(settings["temperature"]))
        with torch.inference_mode():
            ab = self._model.upsample(self._model.bins.decode(tokens), L)
        pairs = zip(L[:, 0].numpy(), ab.numpy(), strict=True)
        return np.stack([rgb_from(lightness, colours) for lightness, colours in pairs])


def _load_pyfunc(path: str) -> PyfuncColorizer:
    """MLflow's entry point: the model saved in the folder `path`.

    Raises: IntegrityError: a file is not what the manifest says.
    """
    model, _ = load_model(Path(path))
    return PyfuncColorizer(model)
