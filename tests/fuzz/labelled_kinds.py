"""Kinds of files of labelled texts and pairs: tables, and the shards that are built of them."""

import contextlib
import json
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from data_pipeline.build.build import build
from data_pipeline.build.readers import Reader
from data_pipeline.build.sources import plan_parts, source_files
from data_pipeline.config import BuildConfig, DataConfig, ReadConfig
from data_pipeline.errors import DataError
from data_pipeline.stream.held_out import iterate_valid
from tests.fuzz.kinds import STORAGE, Kind, read_shards, sum_again
from tests.fuzz.mutations import mutated_bytes, mutated_json

ROWS = [
    {"text": f"line {n} é", "label": "ab"[n % 2], "source": f"a{n}", "target": f"b{n}"}
    for n in range(20)
]


def _tables(folder: Path) -> None:
    names = list(ROWS[0])
    for suffix, separator in (("csv", ","), ("tsv", "\t")):
        lines = [separator.join(names), *(separator.join(row.values()) for row in ROWS)]
        (folder / f"a.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    parquet.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet")


def read_tables(folder: Path) -> None:
    """Read all labelled texts and all pairs: damage stops it, or is counted and nothing else."""
    for kind in ("labelled", "pairs"):
        for policy in ("skip", "fail"):
            read = ReadConfig(on_bad_input=policy, max_document_bytes=1024)
            reader = Reader(read, STORAGE, on_bad=lambda *_: None, kind=kind)
            try:
                for part in plan_parts(source_files([str(folder)], read, STORAGE), read, 1024):
                    for piece in part.slices:
                        for found in reader.documents(piece):
                            "".join((found.text, *found.more)).encode()
            except DataError:
                if policy == "skip":
                    raise AssertionError("skipping must not stop") from None


def _labelled(folder: Path) -> None:
    _tables(folder)
    config = {"sources": (str(folder / "a.jsonl"),), "output": str(folder / "data")}
    build(BuildConfig(kind="labelled", valid_fraction=0.3, **config))


def read_labelled(folder: Path) -> None:
    """What `data verify` and a run do with labelled texts."""
    read_shards(folder)
    config = DataConfig(verify_shards=False, long_texts="cut")
    for split in ("train", "valid"):
        # each meets the damage, whatever the other says
        with contextlib.suppress(DataError):
            path = str(folder / "data" / split)
            for _ in iterate_valid(path, sequence_length=64, micro_batch_size=2, config=config):
                pass


KINDS = {
    "tables": Kind(_tables, read_tables, {"a.*": mutated_bytes}),
    "labelled manifest": Kind(_labelled, read_labelled, {"data/*/manifest.json": mutated_json}),
    "labelled shards": Kind(
        _labelled,
        read_labelled,
        {"data/*/documents.npy": mutated_bytes, "data/*/*.tar": mutated_bytes},
        sum_again,
    ),
}
