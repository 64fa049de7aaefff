"""Sweeps: the runs that KEY=VALUE,VALUE descriptions make of one run (imports no torch)."""

import itertools
import tomllib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.run_file import describe

OUTPUT = "train.output"


def sweep_runs(run: RunConfig, descriptions: Sequence[str]) -> list[RunConfig]:
    """Every combination of the values, the last key's values changing first.

    Each run writes into a folder of its own below the base run's output.

    Raises:
        RunError: A description is not KEY=VALUE,VALUE, or a combination is not a run.
    """
    axes = [_parse(description) for description in descriptions]
    keys = [key for key, _ in axes]
    runs = []
    for number, values in enumerate(itertools.product(*(values for _, values in axes))):
        changes = dict(zip(keys, values, strict=True))
        changes[OUTPUT] = str(run.train.output / f"task-{number:03d}")
        runs.append(_changed(run, changes))
    return runs


def _parse(description: str) -> tuple[str, list[Any]]:
    key, equals, text = description.partition("=")
    if not equals or not key or not text:
        raise RunError(f"--sweep: expected KEY=VALUE,VALUE, found {description!r}")
    if key == OUTPUT or key.startswith("launch."):
        raise RunError(f"--sweep: {key} is the same for all tasks of a sweep, or chosen for each")
    try:
        values: list[Any] = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        # words need no quotes here
        values = text.split(",")
    return key, values


def _changed(run: RunConfig, changes: dict[str, Any]) -> RunConfig:
    table = run.model_dump(mode="json")
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner: Any = table
        for parent in parents:
            inner = inner.get(parent) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            raise RunError(f"--sweep: the run has no key {key}")
        inner[last] = value
    try:
        return RunConfig.model_validate(table)
    except ValidationError as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in changes.items())
        raise RunError(f"--sweep: {shown}: {describe(error, RunConfig)}") from None
