"""Starting and joining Ray: what the user is told when it cannot be done."""

import pytest
import ray

from tintlab.cluster import connect
from tintlab.config import Workspace
from tintlab.errors import ConfigError, EnvironmentFault

HERE = Workspace.at("here")


def test_inside_a_connection_another_is_the_same(ray_cluster: None) -> None:
    before = ray.get_runtime_context().gcs_address
    with connect(HERE):
        assert ray.get_runtime_context().gcs_address == before
    assert ray.is_initialized()


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("Could not find any running Ray instance\nmore detail")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with (
        pytest.raises(EnvironmentFault, match="the Ray cluster at 10.0.0.1:6379: Could not find"),
        connect(HERE, address="10.0.0.1:6379"),
    ):
        pass


def test_two_nodes_need_a_workspace_that_both_see(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}, {"Alive": True}])
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    with pytest.raises(ConfigError, match="the cluster has 2 nodes but"), connect(HERE, "auto"):
        pass
    monkeypatch.setenv("TINTLAB_SHARED_WORKSPACE", "1")
    with connect(HERE, "auto"):
        pass
    assert ended == [True, True]
