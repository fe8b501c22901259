"""A run shows what its machine did, through outages and restarts, and without being slowed."""

import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tintlab.config import Workspace
from tintlab.tracking import runs
from tintlab.tracking.reading import metric_history, run_metrics
from tintlab.tracking.runs import open_run
from tintlab.tracking.system_metrics import SystemMetrics

EXPECTED = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/system_memory_usage_percentage",
    "system/disk_usage_percentage",
    "system/disk_usage_megabytes",
    "system/disk_available_megabytes",
    "system/network_receive_megabytes",
    "system/network_transmit_megabytes",
}


@pytest.fixture
def workspace(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    monkeypatch.setattr(runs, "SEND_EVERY_S", 0.05)
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return Workspace.at(str(tmp_path))


def test_a_run_has_the_figures_of_its_machine_and_goes_on_counting_when_resumed(
    workspace: Workspace,
) -> None:
    for status in ("FAILED", "FINISHED"):
        run = open_run(workspace, "e", "n", "i")
        run.log_system_metrics()
        time.sleep(0.3)
        assert run.close(status)
    figures = run_metrics(workspace, run.run_id)
    assert figures.keys() >= EXPECTED
    assert 0 <= figures["system/cpu_utilization_percentage"] <= 100
    assert 0 < figures["system/system_memory_usage_percentage"] < 100
    assert figures["system/disk_available_megabytes"] > 1
    history = metric_history(workspace, run.run_id, "system/cpu_utilization_percentage")
    assert [point.step for point in history] == list(range(len(history)))
    assert len(history) >= 6
    times = [point.time_ms for point in history]
    assert times == sorted(times)


def test_nothing_measures_any_more_when_the_run_is_closed(workspace: Workspace) -> None:
    run = open_run(workspace, "e", "n", "i")
    run.log_system_metrics()
    assert run.close("FINISHED")
    assert "tintlab-system-metrics" not in {thread.name for thread in threading.enumerate()}


def test_a_run_that_ends_at_once_has_one_sample_all_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "10")
    run = open_run(workspace, "e", "n", "i")
    run.log_system_metrics()
    assert run.close("FINISHED")
    assert len(metric_history(workspace, run.run_id, "system/disk_usage_percentage")) == 1


def test_they_are_left_out_where_mlflow_is_told_so(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    run = open_run(workspace, "e", "n", "i")
    run.log_system_metrics()
    assert run.close("FINISHED")
    assert run_metrics(workspace, run.run_id) == {}


def test_a_sample_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """At MLflow's interval of 10 s, less than a thousandth of one core."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.001")
    samples: list[Mapping[str, float]] = []
    before_s = time.process_time()
    metrics = SystemMetrics(lambda sample, _: samples.append(sample), first_step=0)
    time.sleep(0.5)
    metrics.stop()
    assert (time.process_time() - before_s) / len(samples) < 0.01


def test_a_collector_that_breaks_costs_a_warning_and_no_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import psutil

    def broken(path: str) -> None:
        raise PermissionError(f"no looking at {path}")

    monkeypatch.setattr(psutil, "disk_usage", broken)
    run = open_run(workspace, "e", "n", "i")
    run.log_system_metrics()
    run.log_metrics({"train/loss": 1.0}, 1)
    assert run.close("FINISHED")
    assert [r.message for r in caplog.records] == [
        f"system metrics ended: PermissionError: no looking at {os.sep}"
    ]
    assert run_metrics(workspace, run.run_id) == {"train/loss": 1.0}
