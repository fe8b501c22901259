"""What the machine does while a run trains: processor, memory, disk, network and GPUs.

MLflow's collectors measure; its own monitor does not log, because it asks the server whether the
run is still there and ends for good when there is no answer. Here a thread adds what is measured to
the run's spool under MLflow's names, `system/...`, which its UI shows on a page of their own.

Source: mlflow 3.17 `system_metrics/system_metrics_monitor.py`, for the names, the interval, the
environment variables and how GPUs are found.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from mlflow.environment_variables import (
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
)

logger = logging.getLogger(__name__)

PREFIX = "system/"

EVERY_S = 10.0
"""MLflow's own interval, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise."""


class SystemMetrics:
    """A thread that measures now and then until it is stopped, and once more then."""

    def __init__(self, log: Callable[[Mapping[str, float], int], None], first_step: int) -> None:
        """Args: log: takes metrics and their step. first_step: steps count the samples."""
        self._log = log
        self._step = first_step
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_measuring, name="tintlab-system-metrics")
        self._thread.daemon = True
        if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.is_set() or (
            MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get()
        ):
            self._thread.start()

    def stop(self) -> None:
        """Measure a last time and end."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _keep_measuring(self) -> None:
        try:
            collectors = _collectors()
            self._measure(collectors)  # the processor's share counts from the measurement before
            every_s = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or EVERY_S
            while not self._stopped.wait(every_s):
                self._log(self._measure(collectors), self._next_step())
            self._log(self._measure(collectors), self._next_step())
        except Exception as error:  # whatever it is, a training must not be disturbed by it
            logger.warning("system metrics ended: %s: %s", type(error).__name__, error)

    def _measure(self, collectors: list[Any]) -> dict[str, float]:
        measured = {}
        for collector in collectors:
            collector.collect_metrics()
            measured.update(collector.aggregate_metrics())
            collector.clear_metrics()
        return {f"{PREFIX}{name}": float(value) for name, value in measured.items()}

    def _next_step(self) -> int:
        self._step += 1
        return self._step - 1


def _collectors() -> list[Any]:
    """MLflow's, for what this machine has."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    collectors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for kind in (GPUMonitor, ROCMMonitor):
        with suppress(Exception):  # no such GPU, or not the library that asks it (pynvml, pyrsmi)
            collectors.append(kind())
            break
    return collectors
