"""Sweeps: runs made from one run by KEY=VALUE,VALUE descriptions (imports no torch)."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data_pipeline.storage.files import join, read_bytes
from pretrain.checkpoint.catalog import list_checkpoints
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.run_file import describe, load_run, parse_toml, public_table, validate_run

OUTPUT = "train.output"
REMOTE = "checkpoint.remote"
# in every checkpoint
RUN_FILE = "run.toml"


def sweep_runs(run: RunConfig, descriptions: Sequence[str]) -> list[RunConfig]:
    """The runs of all combinations of values; the last key varies fastest.

    Each run writes into a separate folder below the base run's output, and below its store.

    Raises:
        RunError: A description is not KEY=VALUE,VALUE, names a key or a value twice, or a
            combination is not a run.
    """
    axes = [_parse(description) for description in descriptions]
    keys = sweep_keys(descriptions)
    for key in keys:
        if keys.count(key) > 1:
            raise RunError(f"--sweep: {key} is named {keys.count(key)} times; expected once")
    runs = []
    for number, values in enumerate(itertools.product(*(values for _, values in axes))):
        changes = dict(zip(keys, values, strict=True))
        name = f"task-{number:03d}"
        changes[OUTPUT] = str(run.train.output / name)
        if run.checkpoint.remote:
            changes[REMOTE] = join(run.checkpoint.remote, name)
        runs.append(_changed(run, changes))
    return runs


def check_tasks(runs: Sequence[RunConfig], keys: Sequence[str]) -> None:
    """Reject tasks that would resume from a checkpoint of another sweep.

    Args:
        runs: The runs of the tasks.
        keys: Keys in which they differ.

    Raises:
        RunError: The directory or the store of a task holds a checkpoint of other values.
        DataError: A store cannot be read.
    """
    for run in runs:
        for checkpoint, earlier in _start(run):
            for key in keys:
                found, expected = _value(earlier, key), _value(run, key)
                if found != expected:
                    raise RunError(f"{checkpoint} has {key} = {found!r}; expected {expected!r}")


def _start(run: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    """The checkpoint that a task would resume from, with its run, if there is one."""
    remote, storage = run.checkpoint.remote, run.data.storage
    checkpoints = list_checkpoints(run.train.output)
    if checkpoints:
        yield str(checkpoints[-1]), load_run(checkpoints[-1] / RUN_FILE)
    elif remote:
        # imported only by the runs that need it
        from pretrain.checkpoint.remote import newest_remote

        url = newest_remote(remote, storage)
        if url:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / RUN_FILE
                copy.write_bytes(read_bytes(join(url, RUN_FILE), storage))
                yield url, load_run(copy)


def sweep_keys(descriptions: Sequence[str]) -> list[str]:
    """The keys that a sweep varies.

    Raises:
        RunError: A description is not KEY=VALUE,VALUE.
    """
    return [_parse(description)[0] for description in descriptions]


def _value(run: RunConfig, key: str) -> Any:
    # a checkpoint keeps no credentials to compare
    value: Any = public_table(run)
    for part in key.split("."):
        value = value[part]
    return value


def _parse(description: str) -> tuple[str, list[Any]]:
    key, equals, text = description.partition("=")
    if not equals or not key or not text:
        raise RunError(f"--sweep: expected KEY=VALUE,VALUE, found {description!r}")
    if key in (OUTPUT, REMOTE) or key.startswith("launch."):
        raise RunError(
            f"--sweep: {key} cannot be swept: it is chosen for each task, or the same for all"
        )
    try:
        values: list[Any] = parse_toml(f"values = [{text}]")["values"]
    except ValueError:
        # not TOML: words without quotes
        values = text.split(",")
    repeated = [value for index, value in enumerate(values) if value in values[:index]]
    if repeated:
        raise RunError(f"--sweep: {key} has the value {repeated[0]!r} twice; expected once")
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
        return validate_run(table)
    except ValidationError as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in changes.items())
        raise RunError(f"--sweep: {shown}: {describe(error, RunConfig)}") from None
