"""Batches for training as tensors, the same for every number of ranks and workers."""

import atexit
import itertools
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
from data_pipeline.stream.mixture import Mixture, StreamState, check_weights
from data_pipeline.stream.packing import Preparing
from data_pipeline.stream.step_sizes import Stages, StepSizes


class _Steps(Dataset[Step | DataError]):
    """Dataset of a rank's rows of a global step, by the state before it; used in the workers."""

    def __init__(
        self,
        config: DataConfig,
        sizes: StepSizes,
        data_rank: int,
        data_ranks: int,
        preparing: Preparing | None,
    ):
        self._config, self._sizes, self._preparing = config, sizes, preparing
        self._data_rank, self._data_ranks = data_rank, data_ranks
        self._mixture: Mixture | None = None

    def __getitem__(self, state: StreamState) -> Step | DataError:
        # opened here: connections and memory maps belong to the worker's own process
        self._mixture = self._mixture or Mixture(self._config)
        rows, length = self._sizes.rows_at(state.step), self._sizes.length_at(state.step)
        share = rows // self._data_ranks
        local_rows = range(self._data_rank * share, (self._data_rank + 1) * share)
        try:
            windows = self._mixture.read(state, rows, local_rows, length)
            if self._preparing is not None:
                self._preparing(self._mixture.tokenizer)(windows, state.step, local_rows)
            return to_step(windows)
        except DataError as error:
            # returned, not raised: torch would bury the message under the worker's traceback
            return error


class _States:
    """Sampler of a DataLoader that yields the states of the coming steps.

    Args:
        mixture: The datasets.
        state: State before the first step.
        sizes: Sizes of the steps.
        num_steps: Number of steps; None for no end.
    """

    def __init__(
        self, mixture: Mixture, state: StreamState, sizes: StepSizes, num_steps: int | None
    ):
        self._mixture, self._state = mixture, state
        self._sizes, self._num_steps = sizes, num_steps

    def __iter__(self) -> Iterator[StreamState]:
        state = self._state
        numbers = itertools.count() if self._num_steps is None else range(self._num_steps)
        for number in numbers:
            if number:
                try:
                    state = _after(state, self._mixture, self._sizes)
                except DataError:
                    # the reader of the state before has the same error, for the step it belongs to
                    return
            yield state


def _after(state: StreamState, mixture: Mixture, sizes: StepSizes) -> StreamState:
    return mixture.advance(state, sizes.rows_at(state.step), sizes.length_at(state.step))


def reader_failure(error: RuntimeError) -> DataError:
    """The error that explains torch's error about a reader process."""
    return DataError(
        f"a reader process of the data loader failed: {error}; expected it to answer. It may have "
        "been killed for lack of memory: see data.num_workers, data.prefetch."
    )


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block the signals that stop ranks, also in processes started here: they would kill workers.

    A cluster, and a terminal, signal all processes in any order. A worker that dies is an error of
    its rank.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGHUP})
    try:
        # otherwise started with the first worker, when it would unblock SIGTERM and SIGINT
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_rank(_worker: int) -> None:
    """Let a worker exit at once when its rank sends SIGTERM, whatever else it waits for."""

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(os.EX_OK)

    threading.Thread(target=wait, daemon=True).start()
    # a thread that still sends a tensor would abort an interpreter that is shutting down
    atexit.register(os._exit, os.EX_OK)


def _explained(loader: DataLoader[Step | DataError]) -> Iterator[Step]:
    """The steps of a loader; errors from workers, and about workers, are raised."""
    with _signals_blocked():
        steps = iter(loader)
    try:
        while True:
            try:
                step = next(steps)
            except StopIteration:
                return
            except RuntimeError as error:
                raise reader_failure(error) from error
            if isinstance(step, DataError):
                raise step
            yield step
    finally:
        # Ends the workers now. A traceback would keep them alive until it is garbage collected, and
        # that starts with the semaphores of workers that are still starting.
        del steps


class TrainLoader:
    """Endless iterable of global steps: for each step, this rank's micro-batches.

    State: the next step that has not been yielded yet; steps prepared ahead do not count.

    Attributes:
        corrupt: Tokens masked so far on this rank, by the reason why their shard is unreadable.
    """

    def __init__(
        self,
        config: DataConfig,
        sizes: StepSizes,
        micro_batch_size: int,
        data_rank: int,
        data_ranks: int,
        preparing: Preparing | None = None,
    ):
        self._config, self._sizes, self._micro_batch_size = config, sizes, micro_batch_size
        self._preparing = preparing
        self._data_rank, self._data_ranks = data_rank, data_ranks
        self._mixture = Mixture(config)
        self._state = self._mixture.first_state()
        self.corrupt: dict[str, int] = {}

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer that made the tokens."""
        return self._mixture.tokenizer.fingerprint

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels of texts; none for other data."""
        return self._mixture.datasets[0].manifest.labels

    def __iter__(self) -> Iterator[list[Batch]]:
        """The micro-batches of the next step, then of the step after it, without an end."""
        return self.read()

    def check_weights(self, num_steps: int) -> None:
        """Check that each of the next steps has a dataset to read from.

        Raises:
            DataError: All weights are 0 at one of them.
        """
        first = self._state.step
        check_weights(self._config, first, first + num_steps - 1)

    def read(self, num_steps: int | None = None) -> Iterator[list[Batch]]:
        """The micro-batches of the next steps, one after the other.

        Args:
            num_steps: Number of steps; later ones are not prepared. None for no end.

        Raises:
            DataError: A shard is unreadable and `on_corrupt_shard` is fail, or a worker process
                died or did not answer in time.
        """
        config = self._config
        workers = config.num_workers
        steps = _Steps(config, self._sizes, self._data_rank, self._data_ranks, self._preparing)
        loader: DataLoader[Step | DataError] = DataLoader(
            steps,
            batch_size=None,
            sampler=_States(self._mixture, self._state, self._sizes, num_steps),
            num_workers=workers,
            prefetch_factor=config.prefetch if workers else None,
            pin_memory=config.pin_memory and torch.cuda.is_available(),
            timeout=config.worker_timeout_s if workers else 0,
            # not forked: a fork copies locks that other threads of the rank hold at that moment
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=_end_with_rank,
            # workers' seeds are drawn from it, not from the generator that the model trains with
            generator=torch.Generator(),
        )
        for step in _explained(loader):
            self._state = _after(self._state, self._mixture, self._sizes)
            report_corrupt(step.corrupt, self.corrupt)
            yield step.batches(self._micro_batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The position, before the next step not yet yielded, as integers that JSON can hold."""
        return self._mixture.dump(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a saved position, with any number of ranks and workers and any length.

        Raises:
            DataError: The position is of another order: seed, shuffling or datasets differ.
        """
        self._state = self._mixture.load(state)


def build_train_loader(
    config: DataConfig,
    *,
    global_batch_size: int,
    micro_batch_size: int,
    data_rank: int,
    data_ranks: int,
    row_stages: Stages = (),
    length_stages: Stages = (),
    preparing: Preparing | None = None,
) -> TrainLoader:
    """The loader of one data-parallel rank.

    Args:
        config: The data.
        global_batch_size: Rows of a step, over all ranks.
        micro_batch_size: Rows of a batch.
        data_rank: Number of this rank.
        data_ranks: Number of ranks.
        row_stages: Other numbers of rows at the start; see `StepSizes`.
        length_stages: Other lengths of rows at the start.
        preparing: Makes what changes the rows of a step, in the readers, before they are used.

    Raises:
        DataError: Sizes are not divisible, or datasets are unusable.
    """
    check_rank(data_rank, data_ranks)
    for rows in (global_batch_size, *(rows for _, rows in row_stages)):
        if micro_batch_size < 1 or rows < 1:
            raise DataError(
                f"global_batch_size {rows}, micro_batch_size {micro_batch_size}: "
                "expected at least 1"
            )
        if rows % (micro_batch_size * data_ranks):
            raise DataError(
                f"global_batch_size: {rows}; expected a multiple of micro_batch_size x "
                f"data ranks = {micro_batch_size} x {data_ranks}"
            )
    sizes = StepSizes(global_batch_size, config.sequence_length, row_stages, length_stages)
    return TrainLoader(config, sizes, micro_batch_size, data_rank, data_ranks, preparing)
