"""The data pipeline beside plain SentencePiece and plain webdataset, in one run.

Prints a table, then one line per bar; exits with 1 when one falls short. Each figure is the best
of several rounds, rounds of the two sides in turn, so that other load does not decide. For the same
reason the bar for two processes compares with plain SentencePiece in two processes.
"""

import gc
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
import webdataset
from bars import Bar, judge

from data_pipeline.build.build import build
from data_pipeline.build.extract import extract_part
from data_pipeline.build.planning import choose_documents, plan_shards
from data_pipeline.build.readers import Reader
from data_pipeline.build.shard_writer import write_shard
from data_pipeline.build.sources import plan_parts, source_files
from data_pipeline.build.train_tokenizer import train_tokenizer
from data_pipeline.build.workers import run_tasks
from data_pipeline.config import (
    BuildConfig,
    DataConfig,
    DatasetConfig,
    ReadConfig,
    StorageConfig,
    TokenizerTrainConfig,
)
from data_pipeline.shards.manifest import (
    INDEX_HEADER_BYTES,
    INDEX_NAME,
    index_header,
    load_manifest,
)
from data_pipeline.shards.manifest import NAME as MANIFEST_NAME
from data_pipeline.stream.loader import build_train_loader
from data_pipeline.tokenizer import Tokenizer, load_tokenizer

# English novels if they are at hand, else the standard library.
CORPUS = Path(__file__).parents[2] / "shared/data/lm/eltec_eng.train.jsonl.xz"
TEXT_BYTES = 16_000_000
ROUNDS = 3
LENGTH, ROWS = 2048, 16
READ_TOKENS = 12_000_000
RESUME_SHARDS, RESUME_TOKENS = 100_000, 1_000_000_000


def best(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """Run all sides in turn, several times; return each one's best figure."""
    figures: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for number, side in enumerate(sides):
            gc.collect()
            figures[number].append(side())
    return [max(found) for found in figures]


def documents() -> list[str]:
    """Read some megabytes of documents of at most 100,000 characters."""
    source = str(CORPUS) if CORPUS.is_file() else "stdlib"
    reader = Reader(ReadConfig(), StorageConfig(), on_bad=print)
    texts: list[str] = []
    size = 0
    for part in plan_parts(source_files([source], ReadConfig(), StorageConfig()), ReadConfig(), 1):
        for document in (found for piece in part.slices for found in reader.documents(piece)):
            for start in range(0, len(document.text), 100_000):
                texts.append(document.text[start : start + 100_000])
                size += len(texts[-1].encode())
                if size > TEXT_BYTES:
                    return texts
    return texts


def encode_all(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Do nothing but call SentencePiece."""
    for text in texts:
        tokenizer._model.encode(text)  # type: ignore[attr-defined]


def tokenizing(folder: Path, texts: list[str]) -> dict[str, float]:
    """Return bytes of text per second: plain SentencePiece, and ours with 1 and 2 processes."""
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    total = sum(len(text.encode()) for text in texts)

    def plain() -> float:
        started_s = time.perf_counter()
        encode_all(tokenizer, texts)
        return total / (time.perf_counter() - started_s)

    def side_by_side() -> float:
        # Started as a build starts its processes. On an idle machine this is twice `plain`.
        started_s = time.perf_counter()
        tasks = [(tokenizer, texts[start::2]) for start in range(2)]
        run_tasks("plain", encode_all, tasks, 2)
        return total / (time.perf_counter() - started_s)

    def written(num_processes: int) -> float:
        config = BuildConfig(sources=(str(folder / "corpus.jsonl"),), output=str(folder / "out"))
        with tempfile.TemporaryDirectory(dir=folder) as output:
            work = Path(output) / ".work"
            for name in (".work", "train", "valid"):
                (Path(output) / name).mkdir()
            parts = plan_parts(
                source_files(config.sources, config.read, config.storage), config.read, 1 << 25
            )
            for part in parts:
                extract_part(config, part, work)
            kept, _ = choose_documents(config, len(parts), work)
            tasks = [
                (tokenizer.path, tokenizer.fingerprint, task, work)
                for task in plan_shards(config, kept)
            ]
            started_s = time.perf_counter()
            run_tasks("tokenize", write_shard, tasks, num_processes)
            return int(kept.text_bytes.sum()) / (time.perf_counter() - started_s)

    def whole(num_processes: int) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as output:
            config = BuildConfig(
                sources=(str(folder / "corpus.jsonl"),),
                tokenizer=tokenizer.path,
                output=f"{output}/built",
                num_processes=num_processes,
            )
            started_s = time.perf_counter()
            build(config)
            return total / (time.perf_counter() - started_s)

    names = [
        "SentencePiece",
        "write, 1 process",
        "SentencePiece twice",
        "write, 2 processes",
        "build, 2 processes",
    ]
    sides = (plain, lambda: written(1), side_by_side, lambda: written(2), lambda: whole(2))
    return dict(zip(names, best(ROUNDS, *sides), strict=True))


def packed_by_hand(urls: list[str]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Read with plain webdataset, decode, and pack in Python."""
    buffer: list[int] = []
    while True:
        for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
            buffer.extend(sample["tokens.npy"].tolist())
            start = 0
            while len(buffer) - start > LENGTH:
                window = torch.tensor(buffer[start : start + LENGTH + 1])
                yield window[:-1], window[1:]
                start += LENGTH
            del buffer[:start]


def reading(folder: Path) -> dict[str, float]:
    """Return tokens per second in packed windows, one process each, shards in the page cache."""
    train = folder / "data/train"
    urls = [str(train / entry.name) for entry in load_manifest(str(train)).shards]
    config = DataConfig(
        datasets=(DatasetConfig(path=str(train)),), sequence_length=LENGTH, num_workers=0
    )

    def rate(steps: Iterator[object], tokens_per_step: int) -> float:
        next(steps)
        count = READ_TOKENS // tokens_per_step
        started_s = time.perf_counter()
        for _ in islice(steps, count):
            pass
        return count * tokens_per_step / (time.perf_counter() - started_s)

    def ours() -> float:
        loader = build_train_loader(
            config, global_batch_size=ROWS, micro_batch_size=ROWS, data_rank=0, data_ranks=1
        )
        return rate(iter(loader), LENGTH * ROWS)

    names = ["webdataset and a loop", "packed windows"]
    plain = lambda: rate(packed_by_hand(urls), LENGTH)  # noqa: E731
    return dict(zip(names, best(ROUNDS, plain, ours), strict=True))


def resuming(folder: Path) -> float:
    """Return seconds from a checkpoint at 10^9 tokens to the first batch, with 10^5 shards."""
    train = folder / "data/train"
    table = json.loads((train / MANIFEST_NAME).read_text())
    shard = table["shards"][0]
    rows = (train / INDEX_NAME).read_bytes()[INDEX_HEADER_BYTES:][: shard["samples"] * 24]
    synthetic = folder / "synthetic"
    synthetic.mkdir()
    (synthetic / shard["name"]).symlink_to(train / shard["name"])
    sums = {key: shard[key] * RESUME_SHARDS for key in ("samples", "tokens", "text_bytes")}
    table = {**table, **sums, "shards": [shard] * RESUME_SHARDS}
    (synthetic / MANIFEST_NAME).write_text(json.dumps(table))
    with (synthetic / INDEX_NAME).open("wb") as file:
        file.write(index_header(sums["samples"]))
        for _ in range(RESUME_SHARDS):
            file.write(rows)
    config = DataConfig(
        datasets=(DatasetConfig(path=str(synthetic)),), sequence_length=LENGTH, num_workers=1
    )
    gc.collect()
    started_s = time.perf_counter()
    loader = build_train_loader(
        config, global_batch_size=ROWS, micro_batch_size=ROWS, data_rank=0, data_ranks=1
    )
    state = loader.state_dict()
    rows_read = RESUME_TOKENS // LENGTH
    state["step"] = rows_read // ROWS
    state["datasets"][0]["history"] = [[rows_read // ROWS * ROWS, LENGTH]]
    loader.load_state_dict(state)
    next(iter(loader))
    return time.perf_counter() - started_s


def main() -> None:
    """Measure, print and judge."""
    warnings.simplefilter("ignore", ResourceWarning)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = documents()
        with (folder / "corpus.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        model = str(folder / "tokenizer.model")
        corpus = (str(folder / "corpus.jsonl"),)
        train_tokenizer(TokenizerTrainConfig(inputs=corpus, output=model))
        build(BuildConfig(sources=corpus, tokenizer=model, output=str(folder / "data")))
        written, read = tokenizing(folder, texts), reading(folder)
        resumed_s = resuming(folder)
    source = CORPUS.name if CORPUS.is_file() else "the standard library"
    print(f"{len(texts)} documents of {source}, windows of {LENGTH} tokens")
    for name, figure in written.items():
        print(f"  {name:24} {figure / 1e6:8.2f} MB of text per second")
    for name, figure in read.items():
        print(f"  {name:24} {figure / 1e6:8.2f} M tokens per second")
    print(f"  {'resume at 10^9 tokens':24} {resumed_s:8.2f} s to the first batch")
    plain = written["SentencePiece"]
    twice = written["write, 2 processes"] / (2 * plain)
    print(f"  {'write, 2 processes':24} {twice:8.2f} of 2 x SentencePiece (0.8 needs 2 idle cores)")
    bars = [
        Bar("tokenise and write, 1 process, of SentencePiece", written["write, 1 process"] / plain,
         0.8),
        Bar("tokenise and write, 2 processes, of SentencePiece twice",
         written["write, 2 processes"] / written["SentencePiece twice"], 0.8),
        Bar("packed windows, of webdataset and a loop",
         read["packed windows"] / read["webdataset and a loop"], 3.0),
        Bar("resume with 10^5 shards, seconds", resumed_s, 2.0, at_most=True),
    ]  # fmt: skip
    judge(bars)


if __name__ == "__main__":
    main()
