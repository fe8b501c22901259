"""connect(): the only place that starts or joins Ray."""

import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from tintlab.config import Workspace
from tintlab.errors import ConfigError, EnvironmentFault
from tintlab.interrupts import Hurried

TRIAL_SLOT = "trial_slot"
"""Custom resource that keeps the drivers of multi-worker trials on the head node (cluster.yaml)."""

OBJECT_STORE_BYTES = 400 * 1024**2
"""Shared memory of a local Ray. Pixels go from file to shard in one task: little is needed."""


QUIET = {
    # A worker that nobody has asked for yet would idle beside the training for good.
    "prestart_worker_first_driver": False,
    # For a dashboard, which a Ray started here has not got; each is a thread in every process.
    "task_events_report_interval_ms": 0,
    "enable_metrics_collection": False,
    # Ten times a second, to other nodes that are not there.
    "raylet_report_resources_period_milliseconds": 1000,
}
"""What Ray's own processes need not do on one machine: they wake so often that a training that has
all cores loses a tenth of its speed to them (docs/results.md)."""


def _require_token() -> None:
    """Let only this process and its children talk to the Ray started here.

    The token lives in their environment alone: Ray's own default writes one into the home folder,
    which may be read-only.
    """
    # RAY_AUTH_MODE is left alone: Ray reads it on import, and turns token mode on by itself for a
    # cluster that it starts (ray 2.60, _private/worker.py).
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def storage_of(workspace: Workspace) -> dict[str, Any]:
    """Where Ray may keep its own files, as arguments of its RunConfig.

    Nothing is ever read back from them; Ray wants a place that all of its nodes see.

    Raises: ConfigError: the workspace is one that Ray's workers cannot see.
    """
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    from tintlab.data.storage import is_local, resolve

    fs, path = resolve(f"{workspace.root}/ray")
    if fs.protocol == "memory":
        raise ConfigError(
            f"the workspace {workspace.root} is the memory of this one process, which Ray's "
            "workers cannot see; give a folder or a URI that all of them see"
        )
    if is_local(fs):
        return {"storage_path": path}
    # The same driver and credentials as for checkpoints; pyarrow's own know fewer protocols.
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(fs))}


@contextmanager
def connect(workspace: Workspace, address: str | None = None) -> Iterator[None]:
    """Be connected to Ray in the block: to `address` or $RAY_ADDRESS, else to one started here.

    A Ray that is already connected is used as it is and left running.

    Raises: EnvironmentFault: the cluster does not answer. ConfigError: more than one node and a
        workspace that only this machine can see.
    """
    # Ray speaks through standard error only, whoever starts it; read when ray is first imported.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_TQDM", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A path given as "workspace/x" must mean the same in a trial, which Tune would start elsewhere.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    import ray
    from ray._private import auto_init_hook

    # A thread that is left over when this ends would start another Ray with its next call.
    auto_init_hook.enable_auto_connect = False
    if ray.is_initialized():
        yield
        return
    target = address or os.environ.get("RAY_ADDRESS")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if target:
            # On a cluster, workers do not inherit this process's environment.
            telemetry = {"env_vars": {"MLFLOW_DISABLE_TELEMETRY": "true"}}
            ray.init(
                address=target,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env=telemetry,
            )
        else:
            _require_token()
            cores = os.cpu_count() or 1
            ray.init(
                address="local",
                num_cpus=cores,
                resources={TRIAL_SLOT: cores},
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _system_config=dict(QUIET),  # Ray adds this session's own to it
            )
    except SystemExit:  # Ray's answer to SIGTERM while it starts
        if callable(on_sigterm):
            on_sigterm(signal.SIGTERM, None)
        raise
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = f"the Ray cluster at {target}" if target else "a local Ray"
        raise EnvironmentFault(
            f"cannot reach {where}: {reason}; check RAY_ADDRESS or run tintlab doctor"
        ) from None
    if callable(on_sigterm):  # ours ends with exit code 143, Ray's own with 1
        signal.signal(signal.SIGTERM, on_sigterm)
    # The raylet's messages go to standard output, whatever `log_to_driver` says (ray 2.60,
    # _private/worker.py, listen_error_messages); that is for results.
    with redirect_stdout(sys.stderr):
        try:
            nodes = [node for node in ray.nodes() if node["Alive"]]
            shared = os.environ.get("TINTLAB_SHARED_WORKSPACE")
            if len(nodes) > 1 and workspace.is_local and not shared:
                raise ConfigError(
                    f"the cluster has {len(nodes)} nodes but the workspace {workspace.root} is a "
                    "local folder; mount one file system on all of them, give a --workspace on it, "
                    "and set TINTLAB_SHARED_WORKSPACE=1 to say that it is shared"
                )
            yield
        except Hurried:
            raise  # a Ray that was started here ends with this process
        except BaseException:
            ray.shutdown()  # which says what is left
            raise
        ray.shutdown()
