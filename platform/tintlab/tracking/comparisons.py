"""Comparisons of models that are found by name: measured alike, compared, and written down."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tintlab.config import ExperimentConfig, Workspace
from tintlab.console import table
from tintlab.data.shards import open_shards
from tintlab.errors import ConfigError
from tintlab.evaluation.compare import Comparison, compare, gains
from tintlab.evaluation.compare_report import COLUMNS, Pictures, chosen, html, rows_of
from tintlab.evaluation.definitions import METRICS
from tintlab.evaluation.evaluate import json_ready
from tintlab.evaluation.measuring import Measurer, Task
from tintlab.evaluation.picture import save_png, strip, write_whole
from tintlab.model.artifact import load_model
from tintlab.model.colorizer import Colorizer
from tintlab.tracking.evaluations import KeptEvaluation, evaluate_model
from tintlab.tracking.models import find_model

RANKED_BY = "ciede2000"
"""Which photos are shown: by the colour difference that a viewer sees."""


@dataclass(frozen=True)
class KeptComparison:
    """The first model against each other one, and where it is written down."""

    folder: Path
    comparisons: list[Comparison]
    fingerprint: str
    split: str

    def document(self) -> dict[str, Any]:
        """As JSON has it: comparison.json."""
        return {
            "split": self.split,
            "fingerprint": self.fingerprint,
            "folder": str(self.folder),
            "comparisons": [json_ready(asdict(one)) for one in self.comparisons],
        }

    def text(self) -> str:
        """For a person."""
        parts = [f"{one.verdict}\n{table(COLUMNS, rows_of(one))}" for one in self.comparisons]
        return "\n\n".join([*parts, str(self.folder / "report.html")])


def compare_models(
    workspace: Workspace,
    names: Sequence[str],
    shards_uri: str,
    split: str = "test",
    *,
    workers: int = 1,
    show: Callable[[str], None] | None = None,
) -> KeptComparison:
    """The first of some models against each other one, on every photo of a split.

    All are measured with the first one's evaluation settings.

    Raises: ConfigError: fewer than two models, or one twice. Also as `find_model` and
        `evaluate_model`.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"a comparison needs different models, got {', '.join(names)}")
    found = [find_model(workspace, name, offline_ok=False) for name in names]
    loaded = [load_model(one.folder) for one in found]
    settings = loaded[0][1].evaluation
    kept: list[KeptEvaluation] = []
    for one in found:
        kept.append(
            evaluate_model(
                workspace, one, shards_uri, split, settings=settings, workers=workers, show=show
            )
        )
    tables = [one.per_image() for one in kept]
    configs = [config for _, config in loaded]
    labels = [one.label for one in found]
    comparisons = [
        compare(
            tables[0],
            other,
            (labels[0], label),
            same_bins=_tokens_of(configs[0]) == _tokens_of(config),
        )
        for other, label, config in zip(tables[1:], labels[1:], configs[1:], strict=True)
    ]
    key = hashlib.sha256(json.dumps([one.folder.name for one in kept]).encode()).hexdigest()[:16]
    result = KeptComparison(
        folder=Path(workspace.reports) / "comparisons" / key,
        comparisons=comparisons,
        fingerprint=kept[0].summary["fingerprint"],
        split=split,
    )
    gain = gains(METRICS[RANKED_BY], tables[0], tables[1])
    pictures = _pictures([m for m, _ in loaded], configs[0], shards_uri, split, chosen(gain))
    every = [row for photos in pictures.values() for _, row in photos]
    save_png(result.folder / "comparison.png", strip(every))
    write_whole(result.folder / "report.html", html(labels, comparisons, pictures).encode())
    document = json.dumps(result.document(), indent=2, allow_nan=False) + "\n"
    write_whole(result.folder / "comparison.json", document.encode())
    return result


def _tokens_of(config: ExperimentConfig) -> tuple[object, ...]:
    """What has to be equal for bits per dimension to compare."""
    return config.bins, config.model.chroma_stride


def _pictures(
    models: Sequence[Colorizer],
    config: ExperimentConfig,
    shards_uri: str,
    split: str,
    photos: dict[str, list[int]],
) -> dict[str, list[tuple[str, Pictures]]]:
    """Title -> photos by id, each as grey, every model's sample, and truth."""
    shards = open_shards(shards_uri)
    used = shards.used(split).tolist()
    numbers = sorted({number for some in photos.values() for number in some})
    rows: dict[int, list[np.ndarray]] = {number: [] for number in numbers}
    settings = config.evaluation.model_copy(update={"lpips_net": "none"})  # no figure is needed
    for model in models:
        measurer = Measurer(model, shards, settings)
        done = measurer(Task("measure", split, [used[number] for number in numbers]))
        assert isinstance(done, list)
        triples = measurer.pictures(done, split)
        for number, (grey, sampled, truth) in zip(numbers, triples, strict=True):
            rows[number] = [grey, *rows[number][1:-1], sampled, truth]
    ids = shards.ids(split, [used[number] for number in numbers])
    named = dict(zip(numbers, ids, strict=True))
    return {title: [(named[at], rows[at]) for at in some] for title, some in photos.items()}
