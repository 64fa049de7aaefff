"""A rank of `resonance` with a bad gradient in one window of its data, or without some windows.

NAN=3 python -m tests.faults.planted ARGUMENTS...
"""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from pretrain import cli

# variables: the window with the bad gradient, counted from 0; a file that says that it was there
# and comes no more; windows that are left out
NAN, ONCE, DROP = "RESONANCE_FAULTS_NAN", "RESONANCE_FAULTS_ONCE", "RESONANCE_FAULTS_DROP"


def main(arguments: Sequence[str]) -> None:
    """Plant what the environment asks for, and run `resonance`."""
    from data_pipeline.stream.loader import TrainLoader
    from pretrain.loss import batch_loss

    bad = int(os.environ.get(NAN, "-1"))
    dropped = {int(word) for word in os.environ.get(DROP, "").split()}
    once = Path(os.environ[ONCE]) if ONCE in os.environ else None
    read = TrainLoader.read
    present: list[Any] = []

    def windows(loader: TrainLoader, num_steps: int | None = None) -> Iterator[Any]:
        first = loader.state_dict()["step"]
        for window, batches in enumerate(read(loader, num_steps), start=first):
            present[:] = [window]
            if window not in dropped:
                yield batches

    def loss(engine: Any, batch: Any) -> Any:
        value = batch_loss(engine, batch)
        is_last_rank = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
        if present == [bad] and is_last_rank and not (once and once.exists()):
            value.nll.register_hook(lambda gradient: gradient * math.nan)
            if once:
                once.touch()
        return value

    mock.patch.object(TrainLoader, "read", windows).start()
    mock.patch("pretrain.training.gradient.batch_loss", loss).start()
    cli.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
