"""What a Ray Train worker runs.

Ray's controller loads this module, too, before it starts any worker: what only workers need is
imported inside the function.
"""

import os
from typing import TYPE_CHECKING, Any

from tintlab.config import ExperimentConfig, Workspace
from tintlab.errors import TintlabError
from tintlab.training.board import BoardLink
from tintlab.training.failures import TrainingDiverged, TrainingStopped, failure_class
from tintlab.training.request import Outcome, RunRequest

if TYPE_CHECKING:
    from tintlab.training.loop import Report


def train_worker(payload: dict[str, Any]) -> Outcome | TintlabError:
    """What each Ray Train worker runs; an error it returns is one that a restart would repeat."""
    import ray.train.torch
    import torch

    from tintlab.training.tracked import train_tracked

    config = ExperimentConfig.model_validate(payload["config"])
    context = ray.train.get_context()
    link = BoardLink(payload["board"], context.get_world_rank(), config.training.hang_timeout_s)
    if failure := link.begin():
        return failure
    # Share the cores between the workers of this machine; more threads than cores only wait.
    local_workers = max(1, context.get_local_world_size())
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_workers))
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the loop trains on the current device

    def on_report(report: "Report", run_id: str) -> None:
        if report.finished:
            link.close()  # what is left, such as telling the tracking store, may take its time
        else:
            link.alive()
        link.report((report.step, report.metrics, run_id))
        ray.train.report({**report.metrics, "step": report.step, "run_id": run_id})

    try:
        return train_tracked(
            config,
            Workspace(root=payload["workspace"]),
            payload["shards"],
            RunRequest(**payload["request"]),
            on_report=on_report,
            on_progress=link.show,
            on_notice=link.tell,
            stop=link.asked_to_stop,
        )
    except TrainingStopped as stopped:  # on every rank, after the same step
        return stopped
    except Exception as error:
        if failure_class(error) == "infrastructure":
            raise
        final = in_one_line(error)
        link.fail(final)
        # Every rank finds the same loss; any other failure leaves the rest waiting for this rank.
        if context.get_world_size() == 1 or isinstance(error, TrainingDiverged):
            return final
        raise
    finally:
        link.close()


def in_one_line(error: BaseException) -> TintlabError:
    """A failure in our own words, or the last line of a stranger's."""
    if isinstance(error, TintlabError):
        return error
    first = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return TintlabError(f"training failed: {type(error).__name__}: {first}")
