"""A rank of `resonance` with a fault planted in it, for torchrun to start.

    python -m tests.e2e.faulty_rank FAULT RANK ARGUMENTS...

Only that rank has the fault, and only until torchrun starts the ranks again.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from data_pipeline.errors import DataError
from pretrain import cli

FOREVER_S = 3600.0


def _before_call(target: str, number: int, act: Callable[[], None]) -> None:
    """Do something before the call of that number (from 1) of a function."""
    module, name = target.rsplit(".", 1)
    __import__(module)
    function = getattr(sys.modules[module], name)
    calls = iter(range(1, 10**9))

    def faulty(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            act()
        return function(*arguments, **options)

    mock.patch(target, faulty).start()


def _slow_items(target: str, number: int) -> None:
    """Let the item of that number (from 1) of an iterator never come."""
    module, name = target.rsplit(".", 1)
    __import__(module)
    make = getattr(sys.modules[module], name)

    def slow(*arguments: Any, **options: Any) -> Iterator[Any]:
        for count, item in enumerate(make(*arguments, **options), start=1):
            if count == number:
                time.sleep(FOREVER_S)
            yield item

    mock.patch(target, slow).start()


def _slow_data() -> None:
    from data_pipeline.stream.loader import TrainLoader

    read = TrainLoader.read

    def slow(loader: TrainLoader, num_steps: int | None = None) -> Iterator[Any]:
        for count, batches in enumerate(read(loader, num_steps), start=1):
            if count == 5:
                time.sleep(FOREVER_S)
            yield batches

    mock.patch.object(TrainLoader, "read", slow).start()


def _other_versions() -> None:
    from launch.versions import versions

    other = {**versions(), "host": "other", "torch": "1.0"}
    mock.patch("pretrain.resilience.node_health.versions", return_value=other).start()


def _lose_key() -> None:
    raise KeyError("lost")


def _refuse_upload(checkpoint: Path, remote: str, _storage: Any) -> None:
    raise DataError(f"{remote}/{checkpoint.name}: no route to the store")


FAULTS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "slow data": _slow_data,
    "slow validation": lambda: _slow_items("pretrain.training.validation.iterate_valid", 2),
    "slow start": lambda: _before_call(
        "pretrain.training.trainer.build_engine", 1, lambda: time.sleep(3)
    ),
    # while the checkpoint of step 6 is written
    "slow save": lambda: _before_call("pretrain.checkpoint.save.save", 2, lambda: time.sleep(3)),
    "broken writer": lambda: _before_call("pretrain.checkpoint.save.entry_of", 1, _lose_key),
    "store is down": lambda: mock.patch(
        "pretrain.checkpoint.retention.upload", _refuse_upload
    ).start(),
    "other versions": _other_versions,
    # two micro-batches per step
    "hang": lambda: _before_call(
        "pretrain.training.gradient.batch_loss", 9, lambda: time.sleep(FOREVER_S)
    ),
    "error": lambda: _before_call("pretrain.training.gradient.batch_loss", 9, _lose_key),
}

if __name__ == "__main__":
    fault, rank, *arguments = sys.argv[1:]
    if os.environ["RANK"] == rank and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        FAULTS[fault]()
    cli.main(arguments)
