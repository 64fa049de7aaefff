"""Global steps of a mixture of datasets: their rows, and the integers that resume the stream."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_pipeline.config import DataConfig, DatasetConfig
from data_pipeline.errors import DataError
from data_pipeline.stream.order import (
    History,
    advance,
    choose_datasets,
    weight_at,
)
from data_pipeline.stream.packing import PackedDataset, Windows, empty_windows
from data_pipeline.stream.whole_documents import open_dataset


class StreamState(NamedTuple):
    """Position in the stream: the next global step; per dataset, its lanes and the rows read."""

    step: int
    lanes: tuple[int, ...]
    histories: tuple[History, ...]


class Mixture:
    """Datasets mixed by weight.

    Raises:
        DataError: There are no datasets, manifests or weights are unusable, or tokenizers differ.
    """

    def __init__(self, config: DataConfig):
        if not config.datasets:
            raise DataError("data.datasets: none given; expected at least one with a path")
        self._config = config
        self.datasets = [
            open_dataset(dataset.path, number, config)
            for number, dataset in enumerate(config.datasets)
        ]
        self.tokenizer = self.datasets[0].manifest.tokenizer
        for dataset in self.datasets[1:]:
            check_same_tokenizer(self.datasets[0], dataset)
            check_same_kind(self.datasets[0], dataset)
        for number, entry in enumerate(config.datasets):
            steps = [corner.step for corner in entry.schedule]
            if steps != sorted(set(steps)):
                raise DataError(
                    f"data.datasets[{number}].schedule: its steps are {steps}; expected ascending"
                )

    def first_state(self) -> StreamState:
        """The state before the first step."""
        lanes = tuple(dataset.lanes() for dataset in self.datasets)
        return StreamState(0, lanes, ((),) * len(self.datasets))

    def _choose(self, step: int, rows: int) -> list[int]:
        weights = _weights(self._config, step)
        return choose_datasets(weights, rows, self._config.seed, step).tolist()

    def advance(self, state: StreamState, global_rows: int, length: int = 0) -> StreamState:
        """The state after a step of `global_rows` rows; their length is the configured one if 0."""
        chosen = self._choose(state.step, global_rows)
        length = length or self._config.sequence_length
        histories = tuple(
            advance(history, chosen.count(number), length)
            for number, history in enumerate(state.histories)
        )
        return StreamState(state.step + 1, state.lanes, histories)

    def read(self, state: StreamState, global_rows: int, rows: range, length: int = 0) -> Windows:
        """Read the given rows of the global step that comes after `state`; as `advance`."""
        chosen = self._choose(state.step, global_rows)
        length = length or self._config.sequence_length
        windows = empty_windows(len(rows), length, self.tokenizer.pad_id)
        spans_by_row = []
        for row in rows:
            number = chosen[row]
            dataset = self.datasets[number]
            before = chosen[:row].count(number)
            spans_by_row.append(
                dataset.row_spans(state.lanes[number], state.histories[number], before, length)
            )
        shards_by_dataset: dict[int, set[int]] = {}
        for row, spans in zip(rows, spans_by_row, strict=True):
            shards = shards_by_dataset.setdefault(chosen[row], set())
            shards.update(span.shard for span in spans)
        for number, shards in shards_by_dataset.items():
            self.datasets[number].reader.prefetch(sorted(shards))
        for place, row in enumerate(rows):
            self.datasets[chosen[row]].fill(windows, place, spans_by_row[place])
        return windows

    def dump(self, state: StreamState) -> dict[str, Any]:
        """A state as small integers that JSON can hold."""
        datasets = [
            {
                "tokens": dataset.tokens,
                "content": dataset.content,
                "lanes": lanes,
                "history": [list(pair) for pair in history],
            }
            for dataset, lanes, history in zip(
                self.datasets, state.lanes, state.histories, strict=True
            )
        ]
        config = self._config
        return {
            "step": state.step,
            "seed": config.seed,
            "shuffle": int(config.shuffle),
            "shuffle_block": config.shuffle_block,
            "datasets": datasets,
        }

    def load(self, table: Mapping[str, Any]) -> StreamState:
        """The state in a dump; datasets that were added since then start at their beginning.

        Raises:
            DataError: The dump is of another order: seed, shuffling or datasets differ.
        """
        config = self._config
        missing = {"step", "seed", "shuffle", "shuffle_block", "datasets"} - set(table)
        if missing:
            raise DataError(f"data position: no {sorted(missing)} in the checkpoint; expected them")
        for key, value in (
            ("seed", config.seed),
            ("shuffle", int(config.shuffle)),
            ("shuffle_block", config.shuffle_block),
        ):
            if table[key] != value:
                raise DataError(f"data.{key}: {value}; expected {table[key]}, as in the checkpoint")
        saved = table["datasets"]
        if len(saved) > len(self.datasets):
            raise DataError(
                f"data.datasets: {len(self.datasets)} given; expected the {len(saved)} of the "
                "checkpoint first (set a weight to 0 to leave one out)"
            )
        self._check_order(saved)
        first = self.first_state()
        lanes, histories = list(first.lanes), list(first.histories)
        for number, entry in enumerate(saved):
            self._check_content(number, entry)
            lanes[number] = entry["lanes"]
            histories[number] = tuple((rows, length) for rows, length in entry["history"])
        return StreamState(table["step"], tuple(lanes), tuple(histories))

    def _check_order(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Reject the datasets of a checkpoint in another order, which is another order of rows."""
        contents = [(dataset.tokens, dataset.content) for dataset in self.datasets]
        expected = [(entry["tokens"], entry["content"]) for entry in saved]
        if not all(content in contents for content in expected):
            # not only moved: reported with what is missing
            return
        moved = [
            f"{self.datasets[contents.index(content)].path} is number {contents.index(content)} "
            f"and was number {number}"
            for number, content in enumerate(expected)
            if contents[number] != content
        ]
        if moved:
            raise DataError(
                f"data.datasets: not in the order of the checkpoint (counted from 0): "
                f"{'; '.join(moved)}; expected the same order, new datasets after them"
            )

    def _check_content(self, number: int, entry: Mapping[str, Any]) -> None:
        dataset = self.datasets[number]
        present, expected = (dataset.tokens, dataset.content), (entry["tokens"], entry["content"])
        if present != expected:
            raise DataError(
                f"{dataset.path}: other shards than in the checkpoint: (tokens, checksum) are "
                f"{present}; expected {expected}"
            )


def check_same_tokenizer(first: PackedDataset, other: PackedDataset) -> None:
    """Check that two datasets were made with the same tokenizer.

    Raises:
        DataError: The fingerprints differ.
    """
    expected, tokenizer = first.manifest.tokenizer, other.manifest.tokenizer
    if tokenizer != expected:
        raise DataError(
            f"{other.path}: made with tokenizer {tokenizer.fingerprint[:12]} ({tokenizer.kind}, "
            f"{tokenizer.vocab_size} ids); expected {expected.fingerprint[:12]} ({expected.kind}, "
            f"{expected.vocab_size} ids) as in {first.path}"
        )


def check_same_kind(first: PackedDataset, other: PackedDataset) -> None:
    """Check that two datasets hold the same kind of documents, with the same labels.

    Raises:
        DataError: They differ.
    """
    expected, manifest = first.manifest, other.manifest
    if manifest.kind != expected.kind:
        raise DataError(
            f"{other.path}: holds {manifest.kind}; expected {expected.kind}, as {first.path}"
        )
    if (manifest.labels, manifest.multi_label) != (expected.labels, expected.multi_label):
        raise DataError(
            f"{other.path}: other labels than {first.path}, or another number of them for a text; "
            "expected the same in the same order: build it with --labels-of"
        )


def check_weights(config: DataConfig, first: int, last: int) -> None:
    """Check that some dataset has a weight at every step from `first` to `last`.

    Raises:
        DataError: All weights are 0 at a step, which is named.
    """
    corners = {corner.step for dataset in config.datasets for corner in dataset.schedule}
    # weights are linear between corners, so all are 0 at a corner or at an end if at any step
    for step in sorted({first, last} | {step for step in corners if first < step < last}):
        if first <= step <= last:
            _weights(config, step)


def _weights(config: DataConfig, step: int) -> list[float]:
    """Weights of all datasets at a step, of which at least one is above 0."""
    weights = [_weight(dataset, step) for dataset in config.datasets]
    if sum(weights) <= 0:
        raise DataError(
            f"data.datasets: all weights are 0 at step {step} (counted from 0); expected one above"
        )
    return weights


def _weight(dataset: DatasetConfig, step: int) -> float:
    if not dataset.schedule:
        return dataset.weight
    corners: Sequence[tuple[int, float]] = [(at.step, at.weight) for at in dataset.schedule]
    return weight_at(corners, step)
