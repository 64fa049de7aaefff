"""Tokenizing and writing shards, compared with plain SentencePiece."""

import tempfile
import time
from pathlib import Path

from benchmarks.data.sizes import Sizes, best
from benchmarks.harness.texts import NOVELS
from benchmarks.harness.thresholds import Figure
from data_pipeline.build.build import build
from data_pipeline.build.duplicates.documents import RowFile
from data_pipeline.build.extract import extract_part, load_record, part_file
from data_pipeline.build.planning import choose_documents, plan_shards
from data_pipeline.build.readers import Reader
from data_pipeline.build.shard_writer import DocumentLayout, write_shard
from data_pipeline.build.sources import plan_parts, source_files
from data_pipeline.build.workers.pool import ProcessPool
from data_pipeline.config import BuildConfig, ReadConfig, StorageConfig
from data_pipeline.tokenizer import Tokenizer, load_tokenizer


def documents(text_bytes: int) -> list[str]:
    """Documents of at most 100,000 characters, of about that many bytes together."""
    source = str(NOVELS) if NOVELS.is_file() else "stdlib"
    reader = Reader(ReadConfig(), StorageConfig(), on_bad=print)
    texts: list[str] = []
    size = 0
    for part in plan_parts(source_files([source], ReadConfig(), StorageConfig()), ReadConfig(), 1):
        for document in (read for piece in part.slices for read in reader.documents(piece)):
            for start in range(0, len(document.text), 100_000):
                texts.append(document.text[start : start + 100_000])
                size += len(texts[-1].encode())
                if size > text_bytes:
                    return texts
    return texts


def encode_all(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Call SentencePiece and do nothing else."""
    for text in texts:
        tokenizer._model.encode(text)  # type: ignore[attr-defined]


class Tokenizing:
    """Bytes of text per second of plain SentencePiece and of our pipeline.

    Args:
        folder: Holds corpus.jsonl and tokenizer.model.
        texts: Documents of the corpus.
    """

    def __init__(self, folder: Path, texts: list[str]):
        self.folder, self.texts = folder, texts
        self.tokenizer = load_tokenizer(folder / "tokenizer.model")
        self.num_bytes = sum(len(text.encode()) for text in texts)

    def plain(self) -> float:
        """SentencePiece in this process."""
        started_s = time.perf_counter()
        encode_all(self.tokenizer, self.texts)
        return self.num_bytes / (time.perf_counter() - started_s)

    def plain_twice(self) -> float:
        """SentencePiece in two processes, started as a build starts its own."""
        started_s = time.perf_counter()
        tasks = [(self.tokenizer, self.texts[start::2]) for start in range(2)]
        ProcessPool(2).run("plain", encode_all, tasks)
        return self.num_bytes / (time.perf_counter() - started_s)

    def write(self, num_processes: int) -> float:
        """Our tokenization and writing of shards."""
        config = BuildConfig(
            sources=(str(self.folder / "corpus.jsonl"),), output=str(self.folder / "out")
        )
        with tempfile.TemporaryDirectory(dir=self.folder) as output:
            work = Path(output) / ".work"
            for name in (".work", "train", "valid"):
                (Path(output) / name).mkdir()
            parts = plan_parts(
                source_files(config.sources, config.read, config.storage), config.read, 1 << 25
            )
            for part in parts:
                extract_part(config, part, work)
            files = [
                RowFile(part_file(work, part.number), load_record(work, part.number).documents)
                for part in parts
            ]
            spans, _ = choose_documents(config, files, work, ProcessPool(1))
            tasks = [
                (
                    self.tokenizer.path,
                    self.tokenizer.fingerprint,
                    DocumentLayout("texts"),
                    task,
                    work,
                )
                for task in plan_shards(config, spans, work)
            ]
            started_s = time.perf_counter()
            ProcessPool(num_processes).run("tokenize", write_shard, tasks)
            return self.num_bytes / (time.perf_counter() - started_s)

    def build(self, num_processes: int) -> float:
        """Our whole build."""
        with tempfile.TemporaryDirectory(dir=self.folder) as output:
            config = BuildConfig(
                sources=(str(self.folder / "corpus.jsonl"),),
                tokenizer=self.tokenizer.path,
                output=f"{output}/built",
                num_processes=num_processes,
            )
            started_s = time.perf_counter()
            build(config)
            return self.num_bytes / (time.perf_counter() - started_s)


def compare_tokenizing(folder: Path, texts: list[str], sizes: Sizes) -> list[Figure]:
    """Measure bytes of text per second and print the table."""
    side = Tokenizing(folder, texts)
    plain, write, plain_twice, write_twice, whole = best(
        sizes.rounds,
        side.plain,
        lambda: side.write(1),
        side.plain_twice,
        lambda: side.write(2),
        lambda: side.build(2),
    )
    rates = {
        "SentencePiece": plain,
        "write, 1 process": write,
        "SentencePiece twice": plain_twice,
        "write, 2 processes": write_twice,
        "build, 2 processes": whole,
    }
    for name, rate in rates.items():
        print(f"  {name:24} {rate / 1e6:8.2f} MB of text per second")
    return [
        Figure("plain SentencePiece, 1 process", plain / 1e6, "MB/s"),
        Figure("whole build, 2 processes", whole / 1e6, "MB/s"),
        Figure("tokenizing and writing over plain SentencePiece, 1 process", write / plain,
               limit=0.8),
        Figure("tokenizing and writing over plain SentencePiece, 2 processes each",
               write_twice / plain_twice, limit=0.8),
        Figure("tokenizing and writing in 2 processes over twice plain SentencePiece in 1",
               write_twice / (2 * plain)),
    ]  # fmt: skip
