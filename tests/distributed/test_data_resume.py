"""A killed run resumes with other numbers of ranks and workers, and sees the same batches."""

import json
import random
import signal
import time
import zlib
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from data_pipeline.build.build import build
from data_pipeline.config import BuildConfig, DataConfig, DatasetConfig, WeightAt
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.loader import TrainLoader, build_train_loader
from tests.processes import CONTEXT

NUM_STEPS = 60
GLOBAL_ROWS = 12
CHECKPOINT_EVERY = 4


def config_for(folder: Path, workers: int) -> DataConfig:
    """Describe a mixture whose weights change."""
    corners = (WeightAt(step=0, weight=1), WeightAt(step=NUM_STEPS, weight=4))
    return DataConfig(
        datasets=(
            DatasetConfig(path=str(folder / "a/train")),
            DatasetConfig(path=str(folder / "b/train"), schedule=corners),
        ),
        sequence_length=96,
        num_workers=workers,
        seed=5,
    )


def loader_for(folder: Path, workers: int, rank: int, ranks: int) -> TrainLoader:
    """Make one rank's loader."""
    return build_train_loader(
        config_for(folder, workers),
        global_batch_size=GLOBAL_ROWS,
        micro_batch_size=1,
        data_rank=rank,
        data_ranks=ranks,
    )


def digest(batch: Batch) -> int:
    """Identify a row: tokens, labels, segments and documents."""
    tensors = torch.stack([batch.tokens, batch.labels, batch.segment_ids])
    return zlib.crc32(repr((tensors.tolist(), batch.documents)).encode())


def run_rank(folder: Path, run: Path, rank: int, ranks: int, workers: int) -> None:
    """Train without a model: log every step's rows on rank 0, and save checkpoints."""
    rendezvous = f"file://{run}/rendezvous-{ranks}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=ranks)
    loader = loader_for(folder, workers, rank, ranks)
    checkpoint = run / "checkpoint.json"
    if checkpoint.exists():
        loader.load_state_dict(json.loads(checkpoint.read_text()))
    first = loader.state_dict()["step"]
    for step, batches in enumerate(islice(loader, NUM_STEPS - first), first):
        own = torch.tensor([digest(batch) for batch in batches])
        gathered = [torch.zeros_like(own) for _ in range(ranks)]
        dist.all_gather(gathered, own)
        if rank == 0:
            with (run / "log.jsonl").open("a") as log:
                line = {"ranks": ranks, "step": step, "rows": torch.cat(gathered).tolist()}
                log.write(json.dumps(line) + "\n")
            if (step + 1) % CHECKPOINT_EVERY == 0:
                partial = run / "checkpoint.partial"
                partial.write_text(json.dumps(loader.state_dict()))
                partial.replace(checkpoint)
        # A step takes time: the kill comes in the middle of the run.
        time.sleep(0.02)
    dist.destroy_process_group()


def start(folder: Path, run: Path, ranks: int, workers: int) -> list[BaseProcess]:
    """Start all ranks."""
    processes = [
        CONTEXT.Process(target=run_rank, args=(folder, run, rank, ranks, workers))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def read_log(run: Path) -> list[dict[str, object]]:
    """Read whole lines only: a killed rank may leave half of one."""
    path = run / "log.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small datasets."""
    folder = tmp_path_factory.mktemp("corpora")
    for name, seed in (("a", 1), ("b", 2)):
        generator = random.Random(seed)
        source = folder / f"{name}.jsonl"
        words = [f"x{generator.getrandbits(30)} " for _ in range(150)]
        texts = [word * generator.randint(1, 60) for word in words]
        source.write_text("\n".join(json.dumps({"text": text}) for text in texts))
        build(BuildConfig(sources=(str(source),), output=str(folder / name), shard_bytes=6_000))
    return folder


@pytest.mark.parametrize(("ranks", "workers"), [(1, 3), (4, 1)])
def test_kill_and_resume_with_other_ranks_and_workers(
    corpora: Path, tmp_path: Path, ranks: int, workers: int
) -> None:
    kill_after = random.randint(CHECKPOINT_EVERY + 1, NUM_STEPS // 2)
    processes = start(corpora, tmp_path, ranks=2, workers=2)
    deadline_s = time.monotonic() + 120
    while len(read_log(tmp_path)) < kill_after:
        assert time.monotonic() < deadline_s
        assert all(process.is_alive() for process in processes)
        time.sleep(0.01)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
        assert process.exitcode == -signal.SIGKILL
    # What the kill cut off in the middle of a line is not part of the log.
    lines = read_log(tmp_path)
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    killed_at = len(lines)
    resumed_from = json.loads((tmp_path / "checkpoint.json").read_text())["step"]
    assert 0 < resumed_from <= killed_at < NUM_STEPS
    for process in start(corpora, tmp_path, ranks, workers):
        process.join(timeout=120)
        assert process.exitcode == 0
    reference = [
        [digest(batch) for batch in batches]
        for batches in islice(loader_for(corpora, 0, 0, 1), NUM_STEPS)
    ]
    lines = read_log(tmp_path)
    again = [line for line in lines if line["ranks"] == ranks]
    assert [line["step"] for line in again] == list(range(resumed_from, NUM_STEPS))
    for line in lines:
        assert line["rows"] == reference[int(str(line["step"]))], f"killed at step {killed_at}"
