"""The torch side: workers, resumption, corrupt shards, failures."""

import itertools
import json
import logging
import multiprocessing
import shutil
import subprocess
from itertools import islice
from pathlib import Path

import pytest
import torch

from data_pipeline.config import DataConfig, DatasetConfig
from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import load_manifest
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.held_out import iterate_valid
from data_pipeline.stream.loader import TrainLoader, build_train_loader


def config_for(*paths: Path, **changes: object) -> DataConfig:
    """Describe a mixture of equal weights."""
    datasets = tuple(DatasetConfig(path=str(path)) for path in paths)
    values = {"datasets": datasets, "sequence_length": 64, "num_workers": 0, **changes}
    return DataConfig.model_validate(values)


def loader_for(config: DataConfig, rank: int = 0, ranks: int = 1, micro: int = 2) -> TrainLoader:
    """Make a loader of global batches of 12 rows."""
    return build_train_loader(
        config, global_batch_size=12, micro_batch_size=micro, data_rank=rank, data_ranks=ranks
    )


def rows_of(steps: list[list[Batch]]) -> torch.Tensor:
    """Stack tokens, labels and segment ids: [steps, rows, 3, T]."""
    return torch.stack(
        [
            torch.cat([torch.stack([b.tokens, b.labels, b.segment_ids], 1) for b in batches])
            for batches in steps
        ]
    )


def test_batches_have_the_promised_form(dataset: Path) -> None:
    config = config_for(dataset / "train")
    (batches,) = islice(loader_for(config, micro=4), 1)
    assert len(batches) == 3
    for batch in batches:
        for tensor in (batch.tokens, batch.labels, batch.segment_ids):
            assert tensor.shape == (4, 64)
            assert tensor.dtype == torch.int64
        assert batch.segment_ids[:, 0].tolist() == [0] * 4
        assert (batch.segment_ids.diff() >= 0).all()
        segments = (batch.segment_ids[:, -1] + 1).tolist()
        assert [len(documents) for documents in batch.documents] == segments


# torch warns of more workers than cores; the order must not depend on that either.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_do_not_change_the_batches(
    dataset: Path, other_dataset: Path, workers: int
) -> None:
    paths = (dataset / "train", other_dataset / "train")
    inline = list(islice(loader_for(config_for(*paths)), 7))
    config = config_for(*paths, num_workers=workers, prefetch=2)
    assert torch.equal(rows_of(list(islice(loader_for(config), 7))), rows_of(inline))


def test_ranks_share_the_rows_of_a_step(dataset: Path) -> None:
    config = config_for(dataset / "train")
    whole = rows_of(list(islice(loader_for(config), 4)))
    for ranks in (2, 3, 6):
        parts = [rows_of(list(islice(loader_for(config, rank, ranks), 4))) for rank in range(ranks)]
        assert torch.equal(torch.cat(parts, dim=1), whole)


def test_resuming_goes_on_with_the_step_not_yet_handed_out(dataset: Path) -> None:
    config = config_for(dataset / "train", num_workers=2)
    whole = list(islice(loader_for(config), 9))
    first = loader_for(config)
    taken = list(islice(first, 4))
    saved = json.loads(json.dumps(first.state_dict()))
    assert saved["step"] == 4
    assert torch.equal(rows_of(taken), rows_of(whole[:4]))
    second = loader_for(config)
    second.load_state_dict(saved)
    assert torch.equal(rows_of(list(islice(second, 5))), rows_of(whole[4:]))
    # The same loader goes on too, although its workers had prepared more.
    assert torch.equal(rows_of(list(islice(first, 5))), rows_of(whole[4:]))


def test_state_is_a_few_small_integers(dataset: Path, other_dataset: Path) -> None:
    loader = loader_for(config_for(dataset / "train", other_dataset / "train"))
    list(islice(loader, 40))
    text = json.dumps(loader.state_dict())
    assert len(text) < 400
    assert "." not in text


def valid_batches(path: Path, ranks: int, length: int, micro: int) -> list[list[Batch]]:
    """Read the held-out split on every rank."""
    return [
        list(
            iterate_valid(
                str(path),
                sequence_length=length,
                micro_batch_size=micro,
                data_rank=rank,
                data_ranks=ranks,
            )
        )
        for rank in range(ranks)
    ]


@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize(("length", "micro"), [(64, 4), (1000, 1), (7, 3), (100_000, 1)])
def test_the_held_out_split_is_read_once(
    dataset: Path, ranks: int, length: int, micro: int
) -> None:
    path = dataset / "valid"
    manifest = load_manifest(str(path))
    by_rank = valid_batches(path, ranks, length, micro)
    assert len({len(batches) for batches in by_rank}) == 1
    batches = [batch for step in zip(*by_rank, strict=True) for batch in step]
    tokens = torch.cat([batch.tokens.flatten() for batch in batches])
    labels = torch.cat([batch.labels.flatten() for batch in batches])
    pad_id = manifest.tokenizer.pad_id
    assert (tokens[manifest.tokens :] == pad_id).all()
    assert (labels[manifest.tokens :] == -100).all()
    tokens, labels = tokens[: manifest.tokens], labels[: manifest.tokens]
    assert (tokens != pad_id).all()
    ends = tokens == manifest.tokenizer.eos_id
    assert int(ends.sum()) == manifest.samples
    assert torch.equal(labels == -100, ends)
    assert torch.equal(labels[:-1][~ends[:-1]], tokens[1:][~ends[:-1]])


@pytest.fixture
def damaged(dataset: Path, tmp_path: Path) -> tuple[Path, str]:
    """A dataset with a bit flipped in the tokens of one shard."""
    folder = Path(shutil.copytree(dataset / "train", tmp_path / "train"))
    shard = folder / "shard-000003.tar"
    data = bytearray(shard.read_bytes())
    data[1800] ^= 1
    shard.write_bytes(data)
    return folder, str(shard)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_shard_is_fatal_by_default(damaged: tuple[Path, str], workers: int) -> None:
    folder, shard = damaged
    before = multiprocessing.active_children()
    loader = loader_for(config_for(folder, num_workers=workers))
    with pytest.raises(DataError, match=r"SHA-256 is .* expected .* by the manifest") as caught:
        list(islice(loader, 100))
    assert str(caught.value).startswith(shard)
    assert "\n" not in str(caught.value)
    # although the traceback is still there
    assert set(multiprocessing.active_children()) <= set(before)


def test_the_longest_windows_and_the_random_numbers_of_the_model(dataset: Path) -> None:
    state = torch.get_rng_state()
    config = config_for(dataset / "train", sequence_length=204_800, num_workers=1)
    (batches,) = islice(loader_for(config, micro=12), 1)
    assert batches[0].tokens.shape == (12, 204_800)
    ends = load_manifest(str(dataset / "train")).tokenizer.eos_id
    # A border behind each document, and none elsewhere: one lane, and an epoch ends with one.
    borders = batches[0].segment_ids[:, 1:] != batches[0].segment_ids[:, :-1]
    assert torch.equal(borders, batches[0].tokens[:, :-1] == ends)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("damage", ["flip", "remove", "cut"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_shard_is_masked_and_counted(
    dataset: Path,
    damaged: tuple[Path, str],
    damage: str,
    workers: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, shard = damaged
    if damage == "remove":
        Path(shard).unlink()
    elif damage == "cut":
        Path(shard).write_bytes(Path(shard).read_bytes()[:4000])
    entry = load_manifest(str(folder)).shards[3]
    # One lane and no shuffling: the first rows are the first epoch, each token once.
    order = {"lanes": 1, "shuffle": False, "num_workers": workers}
    loader = loader_for(config_for(folder, on_corrupt_shard="skip", **order))
    steps = load_manifest(str(folder)).tokens // (12 * 64) + 1
    with caplog.at_level(logging.ERROR):
        found = rows_of(list(islice(loader, steps)))
    whole = rows_of(list(islice(loader_for(config_for(dataset / "train", **order)), steps)))
    masked = found[:, :, 0] != whole[:, :, 0]
    # The epoch after it begins in the last step, and may reach the shard again.
    assert 0 <= int(masked.sum()) - entry.tokens < 12 * 64
    assert (found[:, :, 1][masked] == -100).all()
    assert torch.equal(found[:, :, 1][~masked], whole[:, :, 1][~masked])
    assert torch.equal(found[:, :, 2], whole[:, :, 2])
    ((reason, tokens),) = loader.corrupt.items()
    assert reason.startswith(shard)
    assert tokens == int(masked.sum())
    assert [shard in record.message for record in caplog.records] == [True]


def test_a_corrupt_shard_of_the_held_out_split(
    damaged: tuple[Path, str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, shard = damaged
    sizes = {"sequence_length": 64, "micro_batch_size": 2}
    with pytest.raises(DataError, match="SHA-256 is"):
        list(iterate_valid(str(folder), **sizes))
    manifest = load_manifest(str(folder))
    skip = DataConfig(on_corrupt_shard="skip")
    with caplog.at_level(logging.ERROR):
        batches = list(iterate_valid(str(folder), config=skip, **sizes))
    labels = sum(int((batch.labels != -100).sum()) for batch in batches)
    lost = manifest.shards[3]
    assert labels == manifest.tokens - manifest.samples - (lost.tokens - lost.samples)
    assert [shard in record.message for record in caplog.records] == [True]


def test_a_shard_is_not_hashed_when_that_is_switched_off(damaged: tuple[Path, str]) -> None:
    folder, _ = damaged
    assert len(list(islice(loader_for(config_for(folder, verify_shards=False)), 100))) == 100


def test_workers_end_when_their_rank_says_so_only(dataset: Path) -> None:
    before = set(multiprocessing.active_children())
    steps = iter(loader_for(config_for(dataset / "train", num_workers=2)))
    next(steps)
    workers = set(multiprocessing.active_children()) - before
    for worker, name in itertools.product(workers, ("USR1", "TERM")):
        subprocess.run([shutil.which("kill") or "kill", f"-{name}", str(worker.pid)], check=True)
    assert len(list(islice(steps, 100))) == 100
    for worker in workers:
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == 0


def test_sizes_that_do_not_divide_are_refused(dataset: Path) -> None:
    config = config_for(dataset / "train")
    with pytest.raises(DataError, match="global_batch_size: 12; expected a multiple"):
        loader_for(config, ranks=5)
    with pytest.raises(DataError, match="data_rank: 2; expected 0 to 1"):
        loader_for(config, rank=2, ranks=2)
    with pytest.raises(DataError, match="expected at least 1"):
        loader_for(config, micro=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_steps_that_are_not_asked_for_are_not_read(workers: int, dataset: Path) -> None:
    """One whose weights are 0 is no error until it is asked for, whatever is prepared ahead."""
    corners = [{"step": 2, "weight": 1.0}, {"step": 3, "weight": 0.0}]
    entry = {"path": str(dataset / "train"), "schedule": corners}
    config = config_for(dataset / "train", datasets=[entry], num_workers=workers, prefetch=4)
    loader = loader_for(config)
    assert len(list(loader.read(2))) == 2
    steps = loader.read()
    assert len(next(steps)) == 6
    with pytest.raises(DataError, match="all weights are 0 at step 3"):
        next(steps)
