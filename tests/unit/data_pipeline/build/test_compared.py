"""Documents dropped for other texts: those of earlier builds, and of evaluation sets."""

import json
from pathlib import Path

import pytest

from data_pipeline.build.build import build
from data_pipeline.build.duplicates.contamination import is_contaminated, read_texts
from data_pipeline.cleaning_config import CleaningConfig
from data_pipeline.config import BuildConfig
from data_pipeline.errors import DataError
from tests.unit.data_pipeline.build.test_build import config_for, digests
from tests.unit.data_pipeline.conftest import make_text

NEAR = CleaningConfig(near_duplicates=True)


def write_texts(path: Path, texts: list[str]) -> Path:
    """Write JSONL documents."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_documents_of_an_earlier_build_are_dropped(tmp_path: Path) -> None:
    old = [make_text(number, 80) for number in range(12)]
    new = [make_text(number, 80) for number in range(100, 104)]
    resembling = old[5].replace("document 5", "document 6", 1)
    first = config_for(write_texts(tmp_path / "a.jsonl", old), tmp_path / "old", cleaning=NEAR)
    build(first)
    source = write_texts(tmp_path / "b.jsonl", [old[3], new[0], resembling, *new[1:], old[11]])
    against = {"against": (str(tmp_path / "old"),), "cleaning": NEAR}
    for num_processes in (1, 2):
        output = tmp_path / f"new{num_processes}"
        report = build(config_for(source, output, num_processes=num_processes, **against))
        assert report.cleaning["dropped"] == {
            "exact duplicate of an earlier build": 2,
            "near-duplicate of an earlier build": 1,
        }
        assert sum(split.documents for split in report.splits.values()) == 4
    assert digests(tmp_path / "new1") == digests(tmp_path / "new2")
    # the same corpus alone is another build
    with pytest.raises(DataError, match="holds shards of another configuration"):
        build(config_for(source, tmp_path / "new1", cleaning=NEAR))


def test_earlier_builds_that_cannot_be_compared(
    dataset: Path, corpus: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "other/train/manifest.json"
    manifest.parent.mkdir(parents=True)
    table = json.loads((dataset / "train/manifest.json").read_text())
    table["tokenizer"]["fingerprint"] = "0" * 64
    manifest.write_text(json.dumps(table))
    for path, message in (
        (tmp_path / "none", "none: no manifest.json"),
        (tmp_path / "other", "against: .*other/train: made by another tokenizer; expected byte"),
    ):
        with pytest.raises(DataError, match=message):
            build(config_for(corpus, tmp_path / "out", against=(str(path),)))


def test_documents_with_an_ngram_of_an_evaluation_text_are_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = " ".join(f"q{number}" for number in range(20))
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"query": question, "choices": ["yes", "no"], "gold": 0}) + "\n\n")
    words = question.split()
    inside = " ".join(["before", *words[4:17], "after"])
    too_short = " ".join(["before", *words[4:16], "after"])
    # neither case nor punctuation tells texts apart
    other_form = ", ".join(words).upper()
    texts = [inside, too_short, other_form, make_text(1, 30)]
    source = write_texts(tmp_path / "a.jsonl", texts)
    config = config_for(source, tmp_path / "out", decontaminate=(str(tasks),), valid_fraction=0)
    report = build(config)
    assert report.cleaning["dropped"] == {"contaminated": 2}
    assert report.cleaning["examples"]["contaminated"][0].startswith("a.jsonl: before q4")
    assert "2 of 3 texts have fewer than 13 words" in capsys.readouterr().err
    assert build(config) == report
    tasks.write_text(json.dumps("another text") + "\n")
    with pytest.raises(DataError, match="holds shards of another configuration"):
        build(config)


def test_evaluation_texts_that_cannot_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "tasks.jsonl"
    broken.write_text('{"a": "b"}\n{"a": \n')
    with pytest.raises(
        DataError, match=r"decontaminate: \S+tasks.jsonl, line 2: .* one JSON value"
    ):
        read_texts([str(broken)], 13, 1000)
    with pytest.raises(DataError, match=r"line 1: more than 5 bytes; .*read\.max_document_bytes"):
        read_texts([str(broken)], 13, 5)
    broken.write_text('["\\ud800 half a pair"]\n')
    assert read_texts([str(broken)], 2, 1000).num_texts == 1
    (tmp_path / "empty.jsonl").write_text("")
    texts = read_texts([str(tmp_path / "empty.jsonl")], 13, 1000)
    assert not is_contaminated("some words " * 20, 13, texts.hashes)
    assert BuildConfig().decontaminate_ngram == 13
