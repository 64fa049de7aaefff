"""Reading packed windows, compared with plain webdataset, and the time to resume."""

import gc
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import webdataset

from benchmarks.data.sizes import Sizes, best
from benchmarks.harness.thresholds import Figure
from data_pipeline.config import DataConfig, DatasetConfig
from data_pipeline.shards.manifest import (
    INDEX_HEADER_BYTES,
    INDEX_NAME,
    index_header,
    load_manifest,
)
from data_pipeline.shards.manifest import NAME as MANIFEST_NAME
from data_pipeline.stream.loader import TrainLoader, build_train_loader


def packed_by_hand(urls: list[str], length: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Windows read by plain webdataset and packed in Python."""
    buffer: list[int] = []
    while True:
        for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
            buffer.extend(sample["tokens.npy"].tolist())
            start = 0
            while len(buffer) - start > length:
                window = torch.tensor(buffer[start : start + length + 1])
                yield window[:-1], window[1:]
                start += length
            del buffer[:start]


def compare_reading(folder: Path, sizes: Sizes) -> list[Figure]:
    """Measure packed tokens per second (one process each, shards in the page cache); print both."""
    train = folder / "data/train"
    urls = [str(train / entry.name) for entry in load_manifest(str(train)).shards]

    def rate(steps: Iterator[object], tokens_per_step: int) -> float:
        next(steps)
        count = sizes.read_tokens // tokens_per_step
        started_s = time.perf_counter()
        for _ in islice(steps, count):
            pass
        return count * tokens_per_step / (time.perf_counter() - started_s)

    def by_hand() -> float:
        return rate(packed_by_hand(urls, sizes.length), sizes.length)

    def by_loader() -> float:
        return rate(iter(train_loader(train, sizes, num_workers=0)), sizes.length * sizes.rows)

    plain, loader = best(sizes.rounds, by_hand, by_loader)
    print(f"  {'webdataset and a loop':24} {plain / 1e6:8.2f} M tokens per second")
    print(f"  {'packed windows':24} {loader / 1e6:8.2f} M tokens per second")
    return [
        Figure("webdataset with a Python packing loop", plain / 1e6, "M tokens/s"),
        Figure("packed windows over webdataset with a Python packing loop", loader / plain,
               limit=3.0),
    ]  # fmt: skip


def train_loader(folder: Path, sizes: Sizes, num_workers: int) -> TrainLoader:
    """The loader of a training run on one rank."""
    config = DataConfig(
        datasets=(DatasetConfig(path=str(folder)),),
        sequence_length=sizes.length,
        num_workers=num_workers,
    )
    rows = sizes.rows
    return build_train_loader(
        config, global_batch_size=rows, micro_batch_size=rows, data_rank=0, data_ranks=1
    )


def write_many_shards(train: Path, folder: Path, num_shards: int) -> None:
    """Write a data set that lists the first shard of another one many times."""
    table = json.loads((train / MANIFEST_NAME).read_text())
    shard = table["shards"][0]
    rows = (train / INDEX_NAME).read_bytes()[INDEX_HEADER_BYTES:][: shard["samples"] * 24]
    folder.mkdir()
    (folder / shard["name"]).symlink_to(train / shard["name"])
    sums = {key: shard[key] * num_shards for key in ("samples", "tokens", "text_bytes")}
    table = {**table, **sums, "shards": [shard] * num_shards}
    (folder / MANIFEST_NAME).write_text(json.dumps(table))
    with (folder / INDEX_NAME).open("wb") as file:
        file.write(index_header(sums["samples"]))
        for _ in range(num_shards):
            file.write(rows)


def time_resumption(folder: Path, sizes: Sizes) -> list[Figure]:
    """Measure seconds from a checkpoint's position to the first batch, and print them."""
    write_many_shards(folder / "data/train", folder / "synthetic", sizes.resume_shards)
    gc.collect()
    started_s = time.perf_counter()
    loader = train_loader(folder / "synthetic", sizes, num_workers=1)
    state = loader.state_dict()
    steps = sizes.resume_tokens // sizes.length // sizes.rows
    state["step"] = steps
    state["datasets"][0]["history"] = [[steps * sizes.rows, sizes.length]]
    loader.load_state_dict(state)
    next(iter(loader))
    seconds = time.perf_counter() - started_s
    print(f"  {f'resume at {sizes.resume_tokens:,} tokens':24} {seconds:8.2f} s to the first batch")
    name = (
        f"first batch after resuming at token {sizes.resume_tokens:,} in "
        f"{sizes.resume_shards:,} shards"
    )
    return [Figure(name, seconds, "s", limit=2.0, at_most=True)]
