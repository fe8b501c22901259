"""What a sweep would do, and which questions there are: said without starting anything."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tintlab.config import ExperimentConfig
from tintlab.console import Result, table
from tintlab.errors import EnvironmentFault
from tintlab.sweep.difference import in_words
from tintlab.sweep.question import Question
from tintlab.sweep.space import SearchSpace


def plan(
    question: Question, base: ExperimentConfig, num_trials: int, at_once: int, shards_uri: str
) -> Result:
    """What a sweep would try and what that will take; without photos to probe it with, why not.

    Raises: OutOfMemory: not even one step of the largest configuration can be made.
    """
    from tintlab.sweep.estimate import estimate  # torch takes seconds to import, listing needs none

    space = question.space
    try:
        found = estimate(question, base, shards_uri, num_trials, at_once)
        cost: dict[str, Any] = {**asdict(found), "runs": found.runs}
        said = found.text
    except EnvironmentFault as fault:
        cost, said = {"unknown": str(fault)}, f"no estimate: {fault}"
    rows = [[key, words] for key, words in searched(space).items()]
    text = (
        f"{question.text}\n{num_trials} trials of {_steps(space, base)} steps, ranked by "
        f"{_objectives(space)}; {_how(space)}\n{table(['key', 'values'], rows)}\n\n{said}"
    )
    data: dict[str, Any] = {
        "question": question.text,
        "trials": num_trials,
        "replicates": space.replicates,
        "steps": base.training.steps,
        "space": space.description(),
        "base": base.flat(),
        "estimate": cost,
    }
    return Result(data, text)


def listed(questions: Sequence[Question]) -> Result:
    """The questions with their trials, seeds and what is searched."""
    data = [
        {
            "name": question.name,
            "question": question.text,
            "trials": question.space.trials(),
            "replicates": question.space.replicates,
            "exhaustive": question.space.exhaustive,
            "metric": question.space.metric,
            "searched": searched(question.space),
        }
        for question in questions
    ]
    rows: list[list[object]] = []
    for question in questions:
        space = question.space
        runs = f"{space.trials()} x {space.replicates}"
        rows.append([question.name, runs, question.text])
        rows += [["", "", f"  {key}: {words}"] for key, words in searched(space).items()]
    listing = table(["space", "trials x seeds", "question and what is searched"], rows)
    return Result({"spaces": data}, f"{listing}\n\nnext: tintlab sweep SPACE --dry-run")


def searched(space: SearchSpace) -> dict[str, str]:
    """What a trial is drawn from, in words, by key."""
    of_search = space.description()["search"]
    words = {key: in_words(entry) for key, entry in of_search.items()}
    return {"variant": ", ".join(space.variants), **words} if space.variants else words


def _steps(space: SearchSpace, base: ExperimentConfig) -> str:
    """Of each trial; variants may make different numbers of them."""
    key = "training.steps"
    if key in space.search:
        return in_words(space.description()["search"][key])
    variants: list[dict[str, Any]] = [*space.variants.values()] or [{}]
    counts = sorted({settings.get(key, base.training.steps) for settings in variants})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _objectives(space: SearchSpace) -> str:
    others = "".join(f", then {name} ({mode})" for name, mode in space.objectives.items())
    return f"{space.metric} ({space.mode}){others}"


def _how(space: SearchSpace) -> str:
    drawn = "every combination once" if space.exhaustive else f"drawn by {space.sampler}"
    stopped = "none is stopped" if space.stopping == "none" else f"{space.stopping} stops early"
    return f"{drawn}, {stopped}"
