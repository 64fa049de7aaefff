"""Global steps are the same for all ranks, resume anywhere, and never mix documents."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.config import DataConfig, DatasetConfig, WeightAt
from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import load_manifest
from data_pipeline.shards.reader import ShardReader
from data_pipeline.stream.mixture import Mixture, StreamState, check_weights
from data_pipeline.stream.packing import IGNORED_LABEL, Windows

GRID = settings(
    max_examples=60,
    deadline=None,
    # The datasets are only read.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def paths(dataset: Path, other_dataset: Path) -> tuple[str, str]:
    """Two training splits."""
    return str(dataset / "train"), str(other_dataset / "train")


def mixture(paths: tuple[str, ...], **changes: object) -> Mixture:
    """Open datasets with weights 1, 2, ..."""
    datasets = tuple(
        DatasetConfig(path=path, weight=number) for number, path in enumerate(paths, 1)
    )
    values = {"datasets": datasets, "sequence_length": 64, "seed": 3, **changes}
    return Mixture(DataConfig.model_validate(values))


def state_after(mixed: Mixture, steps: int, rows: int) -> StreamState:
    """Advance from the start."""
    state = mixed.first_state()
    for _ in range(steps):
        state = mixed.advance(state, rows)
    return state


def assert_equal(left: Windows, right: Windows) -> None:
    """Compare tokens, labels, segments and documents."""
    np.testing.assert_array_equal(left.tokens, right.tokens)
    np.testing.assert_array_equal(left.labels, right.labels)
    np.testing.assert_array_equal(left.segment_ids, right.segment_ids)
    assert left.documents == right.documents


@GRID
@given(
    ranks=st.sampled_from([1, 2, 3, 4, 6, 12]),
    workers=st.integers(1, 3),
    steps=st.integers(0, 40),
    length=st.integers(1, 300),
    block=st.integers(1, 5),
    lanes=st.integers(0, 9),
    weights=st.sampled_from([(1,), (1, 1), (3, 2), (1, 0), (0.05, 1.7)]),
)
def test_all_ranks_together_see_the_same_steps(
    paths: tuple[str, str],
    ranks: int,
    workers: int,
    steps: int,
    length: int,
    block: int,
    lanes: int,
    weights: tuple[float, ...],
) -> None:
    datasets = tuple(
        DatasetConfig(path=path, weight=weight)
        for path, weight in zip(paths, weights, strict=False)
    )
    order = {"sequence_length": length, "shuffle_block": block, "lanes": lanes}
    whole = mixture((), datasets=datasets, **order)
    state = state_after(whole, steps, 12)
    # Every worker of every rank opens its own, and resumes from what a checkpoint holds.
    saved = json.loads(json.dumps(whole.dump(state)))
    readers = [
        [mixture((), datasets=datasets, **order) for _ in range(workers)] for _ in range(ranks)
    ]
    resumed = readers[0][0].load(saved)
    assert resumed == state
    for step in range(4):
        expected = whole.read(state, 12, range(12))
        for rank in range(ranks):
            rows = range(rank * 12 // ranks, (rank + 1) * 12 // ranks)
            part = slice(rows.start, rows.stop)
            found = readers[rank][step % workers].read(resumed, 12, rows)
            assert_equal(
                found,
                Windows(
                    expected.tokens[part],
                    expected.labels[part],
                    expected.segment_ids[part],
                    expected.documents[part],
                ),
            )
        state, resumed = whole.advance(state, 12), readers[0][0].advance(resumed, 12)


@GRID
@given(steps=st.integers(0, 30), length=st.integers(1, 300), shuffle=st.booleans())
def test_windows_are_made_of_documents_and_their_borders(
    paths: tuple[str, str], steps: int, length: int, shuffle: bool
) -> None:
    mixed = mixture(paths, sequence_length=length, shuffle=shuffle)
    windows = mixed.read(state_after(mixed, steps, 8), 8, range(8))
    manifests = [load_manifest(path) for path in paths]
    readers = [
        ShardReader(path, manifest, DataConfig())
        for path, manifest in zip(paths, manifests, strict=True)
    ]
    for row, documents in enumerate(windows.documents):
        borders = np.flatnonzero(np.diff(windows.segment_ids[row], prepend=-1, append=-1))
        assert len(borders) == len(documents) + 1
        assert windows.segment_ids[row, borders[:-1]].tolist() == list(range(len(documents)))
        for (start, end), (dataset, document) in zip(pairwise(borders), documents, strict=True):
            whole = document_tokens(readers[dataset], document)
            tokens = windows.tokens[row, start:end].tolist()
            place = find(whole, tokens, windows.labels[row, start:end].tolist())
            assert place is not None


def document_tokens(reader: ShardReader, document: int) -> list[int]:
    """Look a document up by its number in the dataset."""
    shard = int(np.searchsorted(reader._first_row, document, side="right")) - 1
    tokens = reader.tokens(shard, document - int(reader._first_row[shard]))
    assert not isinstance(tokens, str)
    return tokens.tolist()


def find(whole: list[int], tokens: list[int], labels: list[int]) -> int | None:
    """Return where in a document these tokens are, followed by these labels."""
    following = [*whole[1:], IGNORED_LABEL]
    for start in range(len(whole) - len(tokens) + 1):
        end = start + len(tokens)
        if whole[start:end] == tokens and following[start:end] == labels:
            return start
    return None


def test_only_the_last_token_of_a_document_has_no_label(paths: tuple[str, str]) -> None:
    mixed = mixture(paths[:1], sequence_length=100, shuffle=False, lanes=1)
    manifest = load_manifest(paths[0])
    state = mixed.first_state()
    seen, ignored = 0, 0
    # Window borders do not lose a label; with one lane the first rows are the first epoch.
    for _ in range(manifest.tokens // 100):
        windows = mixed.read(state, 1, range(1))
        ends = windows.tokens == manifest.tokenizer.eos_id
        np.testing.assert_array_equal(windows.labels == IGNORED_LABEL, ends)
        ignored += int(ends.sum())
        seen += windows.tokens.size
        state = mixed.advance(state, 1)
    assert manifest.tokens - seen < 100
    assert ignored >= manifest.samples - 3


def test_changing_the_window_length_keeps_the_position(paths: tuple[str, str]) -> None:
    short = mixture(paths[:1], sequence_length=32, lanes=1)
    state = state_after(short, 10, 1)
    long = mixture(paths[:1], sequence_length=96, lanes=1)
    found = long.read(long.load(short.dump(state)), 1, range(1)).tokens[0]
    pieces = []
    for _ in range(3):
        pieces.append(short.read(state, 1, range(1)).tokens[0])
        state = short.advance(state, 1)
    np.testing.assert_array_equal(found, np.concatenate(pieces))


def test_the_number_of_lanes_stays_what_it_was(paths: tuple[str, str]) -> None:
    short, long = mixture(paths), mixture(paths, sequence_length=1024)
    state = state_after(short, 3, 4)
    assert long.first_state().lanes != state.lanes
    assert long.load(short.dump(state)).lanes == state.lanes


def test_a_mixed_dataset_gives_its_rows_in_its_own_order(paths: tuple[str, str]) -> None:
    mixed, alone = mixture(paths), mixture(paths[:1])
    rows: list[list[int]] = []
    state = mixed.first_state()
    for _ in range(12):
        windows = mixed.read(state, 5, range(5))
        rows += [
            tokens
            for tokens, documents in zip(windows.tokens.tolist(), windows.documents, strict=True)
            if documents[0][0] == 0
        ]
        state = mixed.advance(state, 5)
    count = len(rows)
    # A third of 60 on average.
    assert 12 < count < 28
    assert rows == alone.read(alone.first_state(), count, range(count)).tokens.tolist()


def test_weights_that_change_by_step(paths: tuple[str, str]) -> None:
    corners = (WeightAt(step=0, weight=0.0), WeightAt(step=10, weight=1.0))
    datasets = (
        DatasetConfig(path=paths[0], schedule=corners),
        DatasetConfig(path=paths[1], schedule=(WeightAt(step=0, weight=1.0),)),
    )
    mixed = mixture((), datasets=datasets)
    state = mixed.first_state()
    counts = []
    for _ in range(12):
        windows = mixed.read(state, 30, range(30))
        counts.append(sum(documents[0][0] == 0 for documents in windows.documents))
        state = mixed.advance(state, 30)
    assert counts[0] == 0
    assert counts[5] in (9, 10, 11)
    assert counts[10:] == [15, 15]


def test_weights_are_checked_at_every_step() -> None:
    def config(*schedules: dict[int, float]) -> DataConfig:
        datasets = tuple(
            DatasetConfig(
                path="x", schedule=tuple(WeightAt(step=s, weight=w) for s, w in schedule.items())
            )
            for schedule in schedules
        )
        return DataConfig(datasets=datasets)

    fading, rising = {0: 1.0, 5: 0.0}, {8: 0.0, 9: 1.0}
    check_weights(config(fading), 0, 4)
    check_weights(config(fading, rising), 9, 20)
    check_weights(config(fading, {4: 0.0, 5: 1.0}), 0, 20)
    check_weights(config({}), 0, 20)
    # no step at all
    check_weights(config(fading), 9, 8)
    for weights, first, last, step in (
        ((fading,), 0, 5, 5),
        ((fading, rising), 0, 20, 5),
        ((fading, rising), 7, 20, 7),
        (({0: 1.0, 2: 0.0, 4: 1.0},), 0, 9, 2),
    ):
        with pytest.raises(DataError, match=f"all weights are 0 at step {step} "):
            check_weights(config(*weights), first, last)


def test_a_state_of_another_order_is_refused(paths: tuple[str, str]) -> None:
    saved = mixture(paths).dump(mixture(paths).first_state())
    with pytest.raises(DataError, match=r"data\.seed: 4; expected 3"):
        mixture(paths, seed=4).load(saved)
    with pytest.raises(DataError, match=r"not in the order .*is number 1 and was number 0; .*"):
        mixture(paths[::-1]).load(saved)
    with pytest.raises(DataError, match="other shards than in the checkpoint"):
        mixture((paths[1], paths[1])).load(saved)
    # the same dataset once more is an added one
    assert len(mixture((*paths, paths[0])).load(saved).histories) == 3
    with pytest.raises(DataError, match="1 given; expected the 2"):
        mixture(paths[:1]).load(saved)
    with pytest.raises(DataError, match=r"no \['datasets'\] in the checkpoint"):
        mixture(paths).load({key: value for key, value in saved.items() if key != "datasets"})
    # A dataset that joins later starts at its beginning.
    alone = mixture(paths[:1])
    joined = mixture(paths).load(alone.dump(state_after(alone, 4, 2)))
    assert joined.histories == (((8, 64),), ())


def test_no_datasets_and_no_weight_are_refused(paths: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"data\.datasets: none given"):
        mixture(())
    silent = mixture((), datasets=(DatasetConfig(path=paths[0], weight=0),))
    with pytest.raises(DataError, match="all weights are 0 at step 0"):
        silent.advance(silent.first_state(), 2)
    with pytest.raises(DataError, match=r"data\.lanes: 1000000 is more than"):
        mixture(paths, lanes=1_000_000).first_state()


def test_two_tokenizers_are_refused(paths: tuple[str, str], tmp_path: Path) -> None:
    table = json.loads((Path(paths[1]) / "manifest.json").read_text())
    table["tokenizer"]["fingerprint"] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match=r"made with tokenizer 000000000000 .* expected"):
        mixture((paths[0], str(tmp_path)))
