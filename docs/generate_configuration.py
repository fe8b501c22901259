"""Print docs/configuration.md from the settings classes: python docs/generate_configuration.py."""

from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from tintlab.config import ExperimentConfig

INTRO = """\
# Settings

Every setting of an experiment. On the command line a key is an option, `--model.depth 8`; in a file
given with `--config` it is `model: {depth: 8}` (YAML or JSON). In options, `-` stands for `_`; a
switch that is on is put off with `no-`, `--data.no-flip`. An unknown key or a value out of range is
refused before anything starts. A run logs all of them as MLflow parameters under the same names.

Written by `python docs/generate_configuration.py > docs/configuration.md`."""

SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    bounds = [
        f"{sign} {getattr(rule, name):.10g}"
        for rule in field.metadata
        for name, sign in SIGNS.items()
        if hasattr(rule, name)
    ]
    return ", ".join([getattr(field.annotation, "__name__", ""), *bounds])


print(INTRO)
for part, default in ExperimentConfig():
    print(f"\n## {part}\n\n{type(default).__doc__}\n")
    print("| key | default | values | meaning |\n|---|---|---|---|")
    for key, field in type(default).model_fields.items():
        meaning = " ".join(str(field.description).split()).replace("|", "\\|")
        print(f"| `{part}.{key}` | `{field.default}` | {allowed(field)} | {meaning} |")
