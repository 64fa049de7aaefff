"""The torch side: batches for training, the same on every number of ranks and workers."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from data_pipeline.mixture import Mixture, StreamState
from data_pipeline.order import Stretch
from data_pipeline.stream import PackedDataset, Windows, empty_windows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Rows of packed tokens for one forward pass.

    Attributes:
        tokens: int64 [b, T].
        labels: int64 [b, T], the next token of the same document; -100 where there is none.
        segment_ids: int64 [b, T], non-decreasing from 0 in each row; padding comes last.
        documents: By row, the (dataset, document) of each segment; document -1 is padding.
    """

    tokens: Tensor
    labels: Tensor
    segment_ids: Tensor
    documents: tuple[tuple[tuple[int, int], ...], ...]

    def to(self, device: torch.device) -> "Batch":
        """Copy the tensors to a device."""
        return Batch(
            self.tokens.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.segment_ids.to(device, non_blocking=True),
            self.documents,
        )


@dataclass
class _Step:
    """What a worker hands over: all of a rank's rows, as few tensors, since each costs a message.

    `corrupt` holds the tokens that had to be masked, by the reason.
    """

    tokens: Tensor
    labels: Tensor
    segment_ids: Tensor
    documents: list[tuple[tuple[int, int], ...]]
    corrupt: dict[str, int]

    def pin_memory(self) -> "_Step":
        """Copy the tensors into pinned memory; torch's DataLoader calls this."""
        return _Step(
            self.tokens.pin_memory(),
            self.labels.pin_memory(),
            self.segment_ids.pin_memory(),
            self.documents,
            self.corrupt,
        )

    def batches(self, micro_batch_size: int) -> list[Batch]:
        """Cut the rows into micro-batches."""
        found = []
        for start in range(0, len(self.documents), micro_batch_size):
            rows = slice(start, start + micro_batch_size)
            documents = tuple(self.documents[rows])
            tensors = self.tokens[rows], self.labels[rows], self.segment_ids[rows]
            found.append(Batch(*tensors, documents))
        return found


def _to_step(windows: Windows) -> _Step:
    return _Step(
        torch.from_numpy(windows.tokens),
        torch.from_numpy(windows.labels),
        torch.from_numpy(windows.segment_ids),
        windows.documents,
        windows.corrupt,
    )


class _Steps(Dataset[_Step | DataError]):
    """This rank's rows of a global step, by the state before it. Lives in the workers."""

    def __init__(self, config: DataConfig, global_batch_size: int, rows: range) -> None:
        self._config, self._global_batch_size, self._rows = config, global_batch_size, rows
        self._mixture: Mixture | None = None

    def __getitem__(self, state: StreamState) -> _Step | DataError:
        # Opened here: connections and memory maps belong to the worker's own process.
        self._mixture = self._mixture or Mixture(self._config)
        try:
            return _to_step(self._mixture.read(state, self._global_batch_size, self._rows))
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


def _explained(loader: DataLoader[_Step | DataError]) -> Iterator[_Step]:
    """Iterate, raising the errors that workers hand over and those about the workers."""
    steps = iter(loader)
    while True:
        try:
            step = next(steps)
        except RuntimeError as error:
            raise reader_failure(error) from error
        if isinstance(step, DataError):
            raise step
        yield step


def _report(corrupt: Mapping[str, int], known: dict[str, int]) -> None:
    """Log a shard the first time, and count its masked tokens every time."""
    for reason, tokens in corrupt.items():
        if reason not in known:
            logger.error("unreadable shard, its tokens are masked: %s", reason)
        known[reason] = known.get(reason, 0) + tokens


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
        loader: DataLoader[_Step | DataError] = DataLoader(
            steps,
            batch_size=None,
            sampler=_States(self._mixture, self._state, self._global_batch_size),
            num_workers=workers,
            prefetch_factor=config.prefetch if workers else None,
            pin_memory=config.pin_memory and torch.cuda.is_available(),
            timeout=config.worker_timeout_s if workers else 0,
            # A seed is drawn for workers: not from the generator that the model trains with.
            generator=torch.Generator(),
        )
        for step in _explained(loader):
            self._state = self._mixture.advance(self._state, self._global_batch_size)
            _report(step.corrupt, self.corrupt)
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
    _check_rank(data_rank, data_ranks)
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


def iterate_valid(
    path: str,
    *,
    sequence_length: int,
    micro_batch_size: int,
    data_rank: int = 0,
    data_ranks: int = 1,
    config: DataConfig | None = None,
) -> Iterator[Batch]:
    """Yield a whole split once, in order: every token exactly once over all ranks.

    All ranks get equally many batches of equal shape: what is missing at the end is padding,
    whose labels are all -100.

    Args:
        config: Storage, cache and checks; its order is not used.

    Raises:
        DataError: The split is missing or unreadable.
    """
    _check_rank(data_rank, data_ranks)
    base = config or DataConfig()
    dataset = PackedDataset(path, 0, base.model_copy(update={"shuffle": False}))
    pad_id = dataset.manifest.tokenizer.pad_id
    num_windows = -(-dataset.tokens // sequence_length)
    per_round = micro_batch_size * data_ranks
    corrupt: dict[str, int] = {}
    for start in range(0, num_windows, per_round):
        windows = empty_windows(micro_batch_size, sequence_length, pad_id)
        first = start + data_rank * micro_batch_size
        spans = []
        for number in range(first, min(first + micro_batch_size, num_windows)):
            position = number * sequence_length
            count = min(sequence_length, dataset.tokens - position)
            spans.append(dataset.spans([Stretch(0, position, count)]))
        dataset.reader.prefetch(sorted({span.shard for found in spans for span in found}))
        for row, found in enumerate(spans):
            dataset.fill(windows, row, found)
        _report(windows.corrupt, corrupt)
        yield _to_step(windows).batches(micro_batch_size)[0]


def _check_rank(data_rank: int, data_ranks: int) -> None:
    if not 0 <= data_rank < data_ranks:
        raise DataError(f"data_rank: {data_rank}; expected 0 to {data_ranks - 1}")
