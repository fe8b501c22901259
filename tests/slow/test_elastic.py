"""A node of the cluster is lost while training; it goes on with the workers that are left."""

import re
from pathlib import Path

import pytest
from figures import Figure
from mlflow import MlflowClient
from ray.cluster_utils import Cluster
from training_process import data_set, ended, ran, start, wait_until

from tintlab.training.checkpoints import Checkpoints, read_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PLAIN = ["--model.dropout", "0"]
"""Dropout is drawn for each backward pass, and fewer workers make more of them."""


def test_a_lost_node_costs_no_training(
    tmp_path: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = data_set(tmp_path / "shards")
    alone = tmp_path / "alone"
    assert ran(alone, shards, *PLAIN).code == 0
    workspace = tmp_path / "workspace"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    node = {"num_cpus": 1, "object_store_memory": 150 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        lost = cluster.add_node(**node)
        cluster.wait_for_nodes()
        process = start(
            workspace,
            shards,
            *PLAIN,
            *("--training.workers", "2", "--training.min-workers", "1"),
            RAY_ADDRESS=cluster.address,
            RAY_AUTH_MODE="disabled",
            TINTLAB_SHARED_WORKSPACE="1",
        )
        wait_until(lambda: len(list((workspace / "checkpoints").rglob("manifest.json"))) >= 2, 240)
        cluster.remove_node(lost, allow_graceful=False)
        done = ended(process, timeout_s=400)
    finally:
        cluster.shutdown()
    assert done.code == 0, done.err
    restarts = re.findall(r"restart (\d+)", done.err)
    bits = [
        read_state(Checkpoints(place / "checkpoints" / "train_train").at(200)).metrics[
            "val/bits_per_dim"
        ]
        for place in (alone, workspace)
    ]
    client = MlflowClient(tracking_uri=f"sqlite:///{workspace}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    figure(
        "Training",
        "one of two nodes killed, training.min_workers=1",
        f"finished after {len(restarts)} restart(s), val/bits_per_dim {bits[1]:.4f} against "
        f"{bits[0]:.4f} of one worker throughout, {len(runs)} MLflow run",
        "finished, equal, 1",
    )
    assert restarts
    assert bits[1] == pytest.approx(bits[0], abs=5e-4)
    assert [run.info.status for run in runs] == ["FINISHED"]
