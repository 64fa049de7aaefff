"""The torch side: batches for training, the same on every number of ranks and workers."""

import atexit
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from data_pipeline.stream.batch import Batch, Step, check_rank, report_corrupt, to_step
from data_pipeline.stream.mixture import Mixture, StreamState


class _Steps(Dataset[Step | DataError]):
    """This rank's rows of a global step, by the state before it. Lives in the workers."""

    def __init__(self, config: DataConfig, global_batch_size: int, rows: range) -> None:
        self._config, self._global_batch_size, self._rows = config, global_batch_size, rows
        self._mixture: Mixture | None = None

    def __getitem__(self, state: StreamState) -> Step | DataError:
        # Opened here: connections and memory maps belong to the worker's own process.
        self._mixture = self._mixture or Mixture(self._config)
        try:
            return to_step(self._mixture.read(state, self._global_batch_size, self._rows))
        except DataError as error:
            # Handed over, not raised: torch would bury the message under the worker's traceback.
            return error


class _States:
    """The states of all coming steps: what the DataLoader takes for a sampler."""

    def __init__(self, mixture: Mixture, state: StreamState, global_batch_size: int) -> None:
        self._mixture, self._state = mixture, state
        self._global_batch_size = global_batch_size

    def __iter__(self) -> Iterator[StreamState]:
        state = self._state
        while True:
            yield state
            state = self._mixture.advance(state, self._global_batch_size)


def reader_failure(error: RuntimeError) -> DataError:
    """What torch's error about a process that reads data means."""
    return DataError(
        f"a reader process of the data loader failed: {error}; expected it to answer. It may have "
        "been killed for lack of memory: see data.num_workers, data.prefetch. If it was a bus "
        "error, a shard was cut short while it was being read."
    )


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block what asks ranks to stop, for processes started here, too: workers would die of it.

    A cluster sends it to all processes, in any order. A worker that dies is an error of its rank.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        # it is started with the first worker, and unblocks SIGTERM then
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_rank(_worker: int) -> None:
    """In a worker: end when its rank says so, whatever else it waits for, and at once."""

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(os.EX_OK)

    threading.Thread(target=wait, daemon=True).start()
    # A thread that still hands over a tensor would abort an interpreter that is taken down.
    atexit.register(os._exit, os.EX_OK)


def _explained(loader: DataLoader[Step | DataError]) -> Iterator[Step]:
    """Iterate, raising the errors that workers hand over and those about the workers."""
    with _signals_blocked():
        steps = iter(loader)
    try:
        while True:
            try:
                step = next(steps)
            except RuntimeError as error:
                raise reader_failure(error) from error
            if isinstance(step, DataError):
                raise step
            yield step
    finally:
        # Ends the workers now. A traceback would keep them until the collector takes it apart, and
        # that begins with the semaphores of those that are still starting.
        del steps


class TrainLoader:
    """Endless global steps: iterating gives this rank's micro-batches of one step after another.

    State: the next step that was not yet handed out; steps prepared ahead do not count.

    Attributes:
        corrupt: Tokens masked so far on this rank, by what is wrong with their shard.
    """

    def __init__(
        self, config: DataConfig, global_batch_size: int, micro_batch_size: int, rows: range
    ) -> None:
        self._config = config
        self._global_batch_size, self._micro_batch_size = global_batch_size, micro_batch_size
        self._rows = rows
        self._mixture = Mixture(config)
        self._state = self._mixture.first_state()
        self.corrupt: dict[str, int] = {}

    @property
    def tokenizer_fingerprint(self) -> str:
        """The tokenizer that made the tokens."""
        return self._mixture.tokenizer.fingerprint

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the micro-batches of the next step, and so on.

        Raises:
            DataError: A shard is unreadable and that is fatal, or a worker process died or did not
                answer in time.
        """
        config = self._config
        workers = config.num_workers
        steps = _Steps(config, self._global_batch_size, self._rows)
        loader: DataLoader[Step | DataError] = DataLoader(
            steps,
            batch_size=None,
            sampler=_States(self._mixture, self._state, self._global_batch_size),
            num_workers=workers,
            prefetch_factor=config.prefetch if workers else None,
            pin_memory=config.pin_memory and torch.cuda.is_available(),
            timeout=config.worker_timeout_s if workers else 0,
            # Not forked: a fork copies locks that other threads of the rank hold at that moment.
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=_end_with_rank,
            # A seed is drawn for workers: not from the generator that the model trains with.
            generator=torch.Generator(),
        )
        for step in _explained(loader):
            self._state = self._mixture.advance(self._state, self._global_batch_size)
            report_corrupt(step.corrupt, self.corrupt)
            yield step.batches(self._micro_batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return the position, before the next step not yet handed out, as JSON-able integers."""
        return self._mixture.dump(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved position, with any number of ranks and workers and any length.

        Raises:
            DataError: It belongs to another order: seed, shuffling or datasets differ.
        """
        self._state = self._mixture.load(state)


def build_train_loader(
    config: DataConfig,
    *,
    global_batch_size: int,
    micro_batch_size: int,
    data_rank: int,
    data_ranks: int,
) -> TrainLoader:
    """Make the loader of one data-parallel rank.

    Raises:
        DataError: Sizes that do not divide, or unusable datasets.
    """
    check_rank(data_rank, data_ranks)
    if micro_batch_size < 1 or global_batch_size < 1:
        raise DataError(
            f"global_batch_size {global_batch_size}, micro_batch_size {micro_batch_size}: "
            "expected at least 1"
        )
    if global_batch_size % (micro_batch_size * data_ranks):
        raise DataError(
            f"global_batch_size: {global_batch_size}; expected a multiple of micro_batch_size x "
            f"data ranks = {micro_batch_size} x {data_ranks}"
        )
    rows = global_batch_size // data_ranks
    rank_rows = range(data_rank * rows, (data_rank + 1) * rows)
    return TrainLoader(config, global_batch_size, micro_batch_size, rank_rows)
