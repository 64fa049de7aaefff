"""Labelled texts and pairs: from every format to shards, rows of whole texts, and bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from data_pipeline.build.build import build
from data_pipeline.config import BuildConfig, DataConfig, DatasetConfig, ReadConfig, VerifyConfig
from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import load_manifest
from data_pipeline.shards.verify import inspect, verify
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.held_out import iterate_valid
from data_pipeline.stream.loader import build_train_loader
from data_pipeline.stream.whole_documents import MORE_LABELS

Row = dict[str, object]
NAMES = ("card", "loan", "transfer")
LABELLED: list[Row] = [
    {"text": f'text {n}, "quoted"' + " word" * (n * n % 17), "label": NAMES[n % 3]}
    for n in range(120)
]
PAIRS: list[Row] = [{"source": f"source {n}", "target": f"Ziel {n}"} for n in range(40)]


def _csv(rows: list[Row], path: Path) -> None:
    lines = [",".join(rows[0])]
    for row in rows:
        quoted = (str(value).replace('"', '""') for value in row.values())
        lines.append(",".join(f'"{value}"' for value in quoted))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _tsv(rows: list[Row], path: Path) -> None:
    lines = ["\t".join(map(str, row.values())) for row in ({k: k for k in rows[0]}, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _jsonl(rows: list[Row], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _parquet(rows: list[Row], path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[list[Row], Path], None]] = {
    "csv": _csv,
    "tsv": _tsv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}


def _build(rows: list[Row], folder: Path, form: str = "jsonl", **keys: object) -> Path:
    folder.mkdir(exist_ok=True)
    source = folder / f"rows.{form}"
    WRITERS[form](rows, source)
    values = {"kind": "labelled", "valid_fraction": 0.2, "shard_bytes": 600} | keys
    build(BuildConfig(sources=(str(source),), output=str(folder / "built"), **values))
    return folder / "built"


def _texts(batch: Batch) -> dict[str, list[int]]:
    """Text and labels of every document of a batch."""
    found = {}
    for tokens, labels, segments in zip(*batch[:3], strict=True):
        for document in segments.unique():
            inside = segments == document
            ids, marks = tokens[inside].tolist(), labels[inside].tolist()
            if ids[0] == 256:
                text = bytes(i for i in ids if i < 256).decode()
                found[text] = [mark for mark in marks if mark != -100]
    return found


def _loaded(path: Path, ranks: int, steps: int, length: int = 120) -> list[dict[str, list[int]]]:
    """The documents of each step, over all ranks."""
    config = DataConfig(
        datasets=(DatasetConfig(path=str(path)),), sequence_length=length, num_workers=0
    )
    found: list[dict[str, list[int]]] = [{} for _ in range(steps)]
    for rank in range(ranks):
        loader = build_train_loader(
            config, global_batch_size=4, micro_batch_size=2, data_rank=rank, data_ranks=ranks
        )
        for step, batches in enumerate(loader.read(steps)):
            for batch in batches:
                found[step] |= _texts(batch)
    return found


def test_every_format_gives_the_same_shards(tmp_path: Path) -> None:
    manifests = []
    for form in WRITERS:
        built = _build(LABELLED, tmp_path / form, form)
        verify(VerifyConfig(path=str(built)))
        manifests.append([load_manifest(str(built / split)) for split in ("train", "valid")])
    # metadata names the source file, so checksums differ
    facts = [[(m.labels, m.label_counts, m.tokens, m.samples) for m in pair] for pair in manifests]
    assert all(fact == facts[0] for fact in facts)
    train, valid = manifests[0]
    assert train.labels == NAMES
    assert sum(train.label_counts) + sum(valid.label_counts) == len(LABELLED)


def test_rows_hold_whole_texts_each_once_per_epoch_with_their_labels(tmp_path: Path) -> None:
    built = _build(LABELLED, tmp_path)
    expected = {str(row["text"]): [NAMES.index(str(row["label"]))] for row in LABELLED}
    found: dict[str, list[int]] = {}
    for split in ("train", "valid"):
        for batch in iterate_valid(str(built / split), sequence_length=150, micro_batch_size=4):
            texts = _texts(batch)
            assert not set(texts) & set(found)
            found |= texts
    assert found == expected


def test_steps_are_equal_on_any_number_of_ranks_and_resume(tmp_path: Path) -> None:
    built = _build(LABELLED, tmp_path) / "train"
    alone = _loaded(built, ranks=1, steps=24)
    assert _loaded(built, ranks=2, steps=24) == alone
    counts: dict[str, int] = {}
    for step in alone:
        for text in step:
            counts[text] = counts.get(text, 0) + 1
    # epochs begin a new row, so no text is ahead of another by more than one
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(counts) == load_manifest(str(built)).samples
    config = DataConfig(
        datasets=(DatasetConfig(path=str(built)),), sequence_length=120, num_workers=0
    )
    sizes = {"global_batch_size": 4, "micro_batch_size": 2, "data_rank": 0, "data_ranks": 1}
    first, second = (build_train_loader(config, **sizes) for _ in range(2))
    for _ in first.read(5):
        pass
    second.load_state_dict(first.state_dict())
    following = next(iter(second.read(1)))
    assert {text for batch in following for text in _texts(batch)} == set(alone[5])


def test_several_labels_lie_at_the_places_of_a_text(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"text": f"words {n}", "label": [name for i, name in enumerate(NAMES) if n >> i & 1]}
        for n in range(40)
    ]
    built = _build(rows, tmp_path, valid_fraction=0.0)
    found: dict[str, list[int]] = {}
    for batch in iterate_valid(str(built / "train"), sequence_length=64, micro_batch_size=4):
        found |= _texts(batch)
    for n in range(40):
        labels = [MORE_LABELS - i for i in range(3) if n >> i & 1]
        assert found[f"words {n}"] == [0, *labels]


def test_pairs_are_two_texts_of_a_document(tmp_path: Path) -> None:
    built = _build(PAIRS, tmp_path, "tsv", kind="pairs")
    verify(VerifyConfig(path=str(built)))
    manifest = load_manifest(str(built / "train"))
    assert (manifest.kind, manifest.labels) == ("pairs", ())
    batch = next(iterate_valid(str(built / "train"), sequence_length=64, micro_batch_size=1))
    text = bytes(i if i < 256 else ord("|") for i in batch.tokens[0].tolist()).decode()
    _, source, _, target, *_ = text.split("|")
    assert source.startswith("source")
    assert target == source.replace("source", "Ziel")


def test_damaged_labels_are_found(tmp_path: Path) -> None:
    built = _build(LABELLED, tmp_path)
    file = built / "train" / "manifest.json"
    table = json.loads(file.read_text())
    table |= {"labels": ["card", "loan"], "label_counts": [1, 1]}
    file.write_text(json.dumps(table))
    assert "has label 2; expected less than 2" not in str(inspect(VerifyConfig(path=str(built))))
    table |= {"labels": ["card"], "label_counts": [1]}
    file.write_text(json.dumps(table))
    assert "has label 2; expected less than 1" in str(inspect(VerifyConfig(path=str(built))))
    with pytest.raises(DataError, match="has label 2; expected less than 1"):
        _loaded(built / "train", ranks=1, steps=3)


BAD = {
    "no label": (
        [{"text": "a"}],
        {},
        r"'label' is None; the keys are \['text'\]; expected a label",
    ),
    "empty side": (
        [{"source": "a", "target": " "}],
        {"kind": "pairs"},
        "'target' is empty; expected a pair of two texts",
    ),
    "no target": ([{"source": "a"}], {"kind": "pairs"}, "'target' is NoneType"),
    "too many labels": (
        [{"text": "a", "label": list("abcdef")}],
        {},
        "a text of 1 tokens has 6 labels; expected fewer",
    ),
    "fields": ([{"text": "a", "label": "x"}], {"read": ReadConfig(label_key="intent")}, "'intent'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records_are_refused_with_their_place(name: str, tmp_path: Path) -> None:
    rows, keys, message = BAD[name]
    with pytest.raises(DataError, match=message):
        _build(rows, tmp_path, valid_fraction=0.0, **keys)


def test_broken_tables_are_refused_with_their_line(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    cases = (
        ("text,label\na,b\nc\n", "line 3: 1 fields; expected 2: text, label"),
        ('text,label\na,"b\n', "unexpected end of data"),
        ("text,label\n\udcff,b\n", "line 1: .*can't decode"),
    )
    for number, (text, message) in enumerate(cases):
        source.write_bytes(text.encode(errors="surrogateescape"))
        config = BuildConfig(
            sources=(str(source),), output=str(tmp_path / f"{number}"), kind="labelled"
        )
        with pytest.raises(DataError, match=message):
            build(config)


def test_labels_of_another_build_keep_their_numbers(tmp_path: Path) -> None:
    first = _build(LABELLED, tmp_path / "first")
    some = [row for row in LABELLED if row["label"] != "card"]
    again = _build(some, tmp_path / "some", labels_of=str(first))
    assert load_manifest(str(again / "train")).labels == NAMES
    other: list[Row] = [{"text": "a", "label": "unheard"}]
    with pytest.raises(DataError, match="the label 'unheard'; expected one of the 3 of"):
        _build(other, tmp_path / "other", labels_of=str(first))


def test_long_texts_are_refused_or_cut(tmp_path: Path) -> None:
    built = str(_build(LABELLED, tmp_path) / "train")
    with pytest.raises(DataError, match=r"its longest text has \d+ tokens; expected at most"):
        next(iterate_valid(built, sequence_length=40, micro_batch_size=1))
    config = DataConfig(long_texts="cut")
    batches = list(iterate_valid(built, sequence_length=40, micro_batch_size=4, config=config))
    labels = np.concatenate([batch.labels.flatten().numpy() for batch in batches])
    assert (labels >= 0).sum() == load_manifest(built).samples
