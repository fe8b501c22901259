"""What MLflow is told about a model of ours: which installed module loads it, and its signature.

The files go beside the model's own; ours needs none of them. Source: mlflow 3.17
`models/utils.py`, `_save_example`, for the form of the input example.
"""

import json
import platform
from pathlib import Path

import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

LOADER = "tintlab.serving.pyfunc_model"
"""The installed module by which `mlflow.pyfunc` loads a version; no code is kept with the model."""

MLMODEL = "MLmodel"
EXAMPLE = "input_example.json"
SERVING_EXAMPLE = "serving_input_example.json"

EXAMPLE_PX = 16
"""Side of the example photo: enough to call with, little enough to read."""

PHOTOS = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
"""sRGB photos of one size, (B, H, W, 3)."""


def signature(temperature: float) -> ModelSignature:
    """Photos in, photos of the same size out, with temperature and seed.

    Args: temperature: of a call that gives none.
    """
    return ModelSignature(
        inputs=Schema([PHOTOS]),
        outputs=Schema([PHOTOS]),
        params=ParamSchema(
            [
                ParamSpec("temperature", DataType.double, temperature),
                ParamSpec("seed", DataType.long, 0),
            ]
        ),
    )


def write_description(folder: Path, run_id: str, path: str, temperature: float) -> None:
    """Write MLmodel and its input example into `folder`.

    Args: path: the folder that they are going to be in, among the run's artefacts. temperature:
        the model's own.
    """
    description = Model(artifact_path=path, run_id=run_id, signature=signature(temperature))
    description.add_flavor(
        "python_function", loader_module=LOADER, python_version=platform.python_version()
    )
    ramp = np.linspace(0, 255, EXAMPLE_PX, dtype=np.uint8)
    photo = np.broadcast_to(ramp[:, None, None], (EXAMPLE_PX, EXAMPLE_PX, 3))
    example = photo[None].tolist()
    (folder / EXAMPLE).write_text(json.dumps(example))
    (folder / SERVING_EXAMPLE).write_text(json.dumps({"inputs": example}))
    description.saved_input_example_info = {
        "artifact_path": EXAMPLE,
        "type": "ndarray",
        "format": "tf-serving",
        "serving_input_path": SERVING_EXAMPLE,
    }
    (folder / MLMODEL).write_text(description.to_yaml())
