"""Speed of the data pipeline compared with plain SentencePiece and plain webdataset.

    python -m benchmarks.data

Each figure is the best of several rounds in which the two sides alternate, so that other load does
not decide. For the same reason the bar for two processes compares with plain SentencePiece in two
processes. Reads English novels if they are at hand, else the standard library's source.
"""

import json
import tempfile
import warnings
from pathlib import Path

import torch

from benchmarks.data.reading import compare_reading, time_resumption
from benchmarks.data.sizes import FULL, QUICK
from benchmarks.data.tokenizing import compare_tokenizing, documents
from benchmarks.harness.command import run_benchmark
from benchmarks.harness.texts import NOVELS
from benchmarks.harness.thresholds import Outcome
from data_pipeline.build.build import build
from data_pipeline.build.train_tokenizer import train_tokenizer
from data_pipeline.config import BuildConfig, TokenizerTrainConfig


def measure(quick: bool) -> Outcome:
    """Build a data set, then compare tokenizing, reading and resuming."""
    sizes = QUICK if quick else FULL
    warnings.simplefilter("ignore", ResourceWarning)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = documents(sizes.text_bytes)
        with (folder / "corpus.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        model = str(folder / "tokenizer.model")
        corpus = (str(folder / "corpus.jsonl"),)
        train_tokenizer(
            TokenizerTrainConfig(inputs=corpus, output=model, vocab_size=sizes.vocab_size)
        )
        build(BuildConfig(sources=corpus, tokenizer=model, output=str(folder / "data")))
        source = NOVELS.name if NOVELS.is_file() else "the standard library"
        print(f"{len(texts)} documents of {source}, windows of {sizes.length} tokens")
        figures = compare_tokenizing(folder, texts, sizes)
        figures += compare_reading(folder, sizes) + time_resumption(folder, sizes)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    setting = f"{megabytes:.0f} MB of {source}, vocabulary {sizes.vocab_size:,}, windows of "
    return Outcome(f"{setting}{sizes.length:,} tokens.", figures)


if __name__ == "__main__":
    run_benchmark("data", __doc__, measure)
