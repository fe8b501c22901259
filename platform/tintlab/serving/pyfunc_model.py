"""How `mlflow.pyfunc.load_model("models:/colorizer@champion")` loads a model of ours.

MLflow imports this installed module by the name in the version's MLmodel file; nothing in the
model's folder is executed. Photos are coloured as `tintlab colorize` does: looked at on a small
copy, drawn there, and brought to their own size.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from tintlab.config import ExperimentConfig
from tintlab.model.artifact import load_model
from tintlab.model.colorizer import Colorizer
from tintlab.serving.drawing import Drawing
from tintlab.serving.painting import drawn, exact, lightness, one_thread, painted, small_copy


class PyfuncColorizer:
    """A colorizer behind MLflow's `predict`."""

    def __init__(self, model: Colorizer, config: ExperimentConfig) -> None:
        self._model, self._exact, self._config = model, exact(model), config

    def predict(
        self, model_input: UInt8[np.ndarray, "B H W 3"], params: dict[str, Any] | None = None
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Colour photos of one size; their own lightness is kept, their colours are not used.

        Args: params: `temperature` (default the model's own) and `seed` (default 0) of the first
            photo; each following photo's seed is one higher.
        """
        config, given = self._config, params or {}
        temperature = given.get("temperature", config.evaluation.temperature)
        drawing = Drawing(float(temperature)).check()
        seeds = [int(given.get("seed", 0)) + index for index in range(len(model_input))]
        planes = [lightness(rgb) for rgb in model_input]
        seen = [small_copy(L, config.data.crop_px, self._model.stride) for L in planes]
        with one_thread():
            tokens = drawn(self._exact, seen, seeds, drawing)[:, 0]
            pictures = [
                painted(self._model, *one).rgb for one in zip(planes, seen, tokens, strict=True)
            ]
        return np.stack(pictures)


def _load_pyfunc(path: str) -> PyfuncColorizer:
    """MLflow's entry point: the model saved in the folder `path`.

    Raises: IntegrityError: a file is not what the manifest says.
    """
    return PyfuncColorizer(*load_model(Path(path)))
