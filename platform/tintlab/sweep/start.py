"""Where a sweep begins: starting points, of which one may be the champion's configuration."""

from collections.abc import Mapping
from typing import Any

from tintlab.config import Workspace
from tintlab.sweep.space import CHAMPION, VARIANT, SearchSpace, When, holds
from tintlab.tracking.reading import run_config
from tintlab.tracking.registry import champion
from tintlab.tracking.store import has_store


def champion_values(workspace: Workspace) -> dict[str, Any] | None:
    """The flat configuration of the model that is @champion, or None if there is none.

    Raises: EnvironmentFault: the store does not answer. ConfigError: this version refuses it.
    """
    version = champion(workspace) if has_store(workspace) else None
    return None if version is None else run_config(workspace, version.run_id).flat()


def with_champion(
    space: SearchSpace, values: Mapping[str, Any] | None
) -> tuple[SearchSpace, list[str]]:
    """The space with the champion's values where its starting points say "champion".

    Only searched keys that apply are taken, and of them those within what is searched; the rest is
    for the sampler. Without a champion, or if nothing of it is left, the point is left out.

    Args: values: the champion's flat configuration, see `champion_values`.
    Returns: the space, and a line for each thing that was left out.
    """
    if CHAMPION not in space.start:
        return space, []
    point, notices = ({}, []) if values is None else _point(space, values)
    if values is None:
        notices = ["there is no @champion to start from; the sweep starts without it"]
    elif not point:
        notices.append("nothing of @champion is searched; the sweep starts without it")
    start = tuple(point if each == CHAMPION else each for each in space.start)
    kept = tuple(each for each in start if each)
    return space.model_copy(update={"start": kept}), notices


def _point(space: SearchSpace, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    point: dict[str, Any] = {}
    notices = []
    if space.variants:
        base = space.base().flat()
        keys = {key for settings in space.variants.values() for key in settings}
        same = (
            name
            for name, settings in space.variants.items()
            if all(values[key] == {**base, **settings}[key] for key in keys)
        )
        variant = next(same, None)
        if variant is None:
            notices.append("@champion is none of the variants; the sampler chooses one")
        else:
            point[VARIANT] = variant
    for key, entry in space.search.items():
        distribution = entry
        if isinstance(entry, When):
            # A key it depends on may have been left out; then the sampler decides on both.
            decided = entry.key in point if entry.key in space.choices else True
            now = point.get(entry.key, values.get(entry.key))
            if not decided or now not in entry.values:
                continue
            distribution = entry.distribution
        assert not isinstance(distribution, When)
        if holds(distribution, values[key]):
            point[key] = values[key]
        else:
            notices.append(
                f"@champion has {key}={values[key]!r}, outside {distribution}; left to the sampler"
            )
    return point, notices
