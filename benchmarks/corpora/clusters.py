"""A whole build on a Dask cluster of this machine, compared with the pool of processes."""

import json
import tempfile
import time
from pathlib import Path

from benchmarks.data.sizes import best
from benchmarks.data.tokenizing import documents
from benchmarks.harness.thresholds import Figure
from data_pipeline.build.build import build
from data_pipeline.build.train_tokenizer import train_tokenizer
from data_pipeline.cleaning_config import CleaningConfig
from data_pipeline.cluster_config import ClusterConfig
from data_pipeline.config import BuildConfig, TokenizerTrainConfig


def measure_clusters(text_bytes: int, vocab_size: int, rounds: int) -> list[Figure]:
    """Measure bytes of text per second; the cluster's start and end are counted in."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, model = str(folder / "corpus.jsonl"), str(folder / "tokenizer.model")
        texts = documents(text_bytes)
        with Path(source).open("w") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        train_tokenizer(TokenizerTrainConfig(inputs=(source,), output=model, vocab_size=vocab_size))

        def rate(num_processes: int, cluster: ClusterConfig) -> float:
            with tempfile.TemporaryDirectory(dir=folder) as output:
                config = BuildConfig(
                    sources=(source,),
                    tokenizer=model,
                    output=f"{output}/built",
                    part_bytes=max(text_bytes // 16, 1024),
                    num_processes=num_processes,
                    cluster=cluster,
                    cleaning=CleaningConfig(near_duplicates=True),
                )
                started_s = time.perf_counter()
                build(config)
                return text_bytes / (time.perf_counter() - started_s)

        one, two, cluster = best(
            rounds,
            lambda: rate(1, ClusterConfig()),
            lambda: rate(2, ClusterConfig()),
            lambda: rate(1, ClusterConfig(kind="local", workers=2)),
        )
    for side, value in (("1 process", one), ("2 processes", two), ("cluster of 2", cluster)):
        print(f"  {side:14} {value / 1e6:8.2f} MB of text per second")
    return [
        Figure("build with near-duplicates, 1 process", one / 1e6, "MB/s"),
        Figure("build in 2 processes over 1", two / one, limit=1.7),
        Figure("build on a local cluster of 2 workers over 2 processes", cluster / two, limit=0.9),
    ]
