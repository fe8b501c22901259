"""Many photos on Ray Data: chunks of jobs through a pool of actors, each with the model.

Only names go to the actors and only outcomes come back; photos and pictures pass from and to the
storage, which all of them must see.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from tintlab.errors import EnvironmentFault, IntegrityError, TintlabError
from tintlab.model.colorizer import Colorizer
from tintlab.serving.painter import Job, Outcome, Painter, Style

JOBS_PER_CHUNK = 64
"""Four full batches where all photos have one grid; progress is told after each chunk."""

_FAULTS = {kind.__name__: kind for kind in (EnvironmentFault, IntegrityError)}
"""What ends all of the work, by the name that crosses from an actor."""


class PaintingActor:
    """A painter that lives in a Ray actor."""

    def __init__(self, model_reference: list[Any], style: Style) -> None:
        """Args: model_reference: the model in Ray's object store; in a list, or Ray would not hand
        on the reference but the model, once for each actor."""
        import ray

        self._painter = Painter(ray.get(model_reference[0]), style)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the jobs of chunks; what happened, or the fault that ends everything."""
        return {"outcomes": [self._done(chunk) for chunk in batch["jobs"].tolist()]}

    def _done(self, chunk: str) -> str:
        jobs = [
            Job(number, source, own, tuple(to)) for number, source, own, to in json.loads(chunk)
        ]
        try:
            return json.dumps([asdict(outcome) for outcome in self._painter.paint(jobs)])
        except TintlabError as error:
            return json.dumps({"fault": type(error).__name__, "message": str(error)})


def cluster_cores() -> int:
    """Cores of the Ray that is connected."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def paint_on_ray(
    model: Colorizer, style: Style, jobs: Sequence[Job], workers: int
) -> Iterator[Outcome]:
    """Do the jobs with so many actors, one core each. Call inside `cluster.connect`.

    Raises: as `Painter.paint`.
    """
    import ray

    size = max(1, min(JOBS_PER_CHUNK, -(-len(jobs) // workers)))
    # JSON in ASCII: names that are no UTF-8 would not pass as Arrow strings.
    chunks = [{"jobs": json.dumps(jobs[at : at + size])} for at in range(0, len(jobs), size)]
    data = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map_batches(
        PaintingActor,
        fn_constructor_args=([ray.put(model)], style),
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    for row in data.iter_rows():
        found = json.loads(row["outcomes"])
        if isinstance(found, dict):
            raise _FAULTS.get(found["fault"], EnvironmentFault)(found["message"])
        yield from (Outcome(**outcome) for outcome in found)
