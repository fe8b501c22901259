"""What the tests share: one Ray, one tracking database, one small data set made by the real
pipeline."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tintlab.cluster import connect
from tintlab.config import Workspace


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One local Ray for the whole test run."""
    with connect(Workspace.at(str(tmp_path_factory.mktemp("ray_workspace")))):
        yield


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated tracking database; making one takes seconds, copying one does not."""
    from tintlab.tracking.store import ensure_store

    workspace = Workspace.at(str(tmp_path_factory.mktemp("migrated")))
    ensure_store(workspace)
    return Path(workspace.root) / "mlflow.db"


@pytest.fixture(scope="session")
def photo_tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged photographs, cut into tiles."""
    from tintlab.data.photos import write_packaged_photos

    folder = tmp_path_factory.mktemp("photos")
    write_packaged_photos(folder)
    return folder


@pytest.fixture(scope="session")
def shards_uri(
    ray_cluster: None, photo_tiles: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Lab shards of the packaged photographs, made by the real preparation."""
    from tintlab.data.prepare import PrepareConfig, prepare

    out = str(tmp_path_factory.mktemp("prepared") / "shards")
    prepare([str(photo_tiles)], out, PrepareConfig())
    return out
