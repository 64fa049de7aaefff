"""Building: the same bytes from any number of processes, finished work never repeated."""

import gc
import hashlib
import json
import os
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.build import build as build_module
from data_pipeline.build import shard_writer
from data_pipeline.build.build import build
from data_pipeline.build.duplicates.documents import RowFile, plan_spans
from data_pipeline.build.planning import SPLITS, ShardTask, load_choice, plan_shards, rows_of_piece
from data_pipeline.build.shard_writer import DocumentLayout
from data_pipeline.build.train_tokenizer import train_tokenizer
from data_pipeline.build.workers.pool import ProcessPool
from data_pipeline.cleaning_config import CleaningConfig
from data_pipeline.config import (
    BuildConfig,
    DataConfig,
    ReadConfig,
    StorageConfig,
    TokenizerTrainConfig,
)
from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import load_manifest
from data_pipeline.shards.reader import ShardReader
from data_pipeline.shards.tar import samples
from data_pipeline.tokenizer import load_tokenizer
from tests.tokenizers_in_use import save_model


def config_for(corpus: Path, output: Path, **changes: object) -> BuildConfig:
    """Describe a build of several parts and shards."""
    values = {
        "sources": (str(corpus),),
        "output": str(output),
        "shard_bytes": 4_000,
        "part_bytes": 6_000,
        "valid_fraction": 0.2,
        **changes,
    }
    return BuildConfig.model_validate(values)


def digests(output: Path) -> dict[str, str]:
    """Return the checksum of every file but the report, which holds times."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != "report.json"
    }


def test_shards_do_not_depend_on_the_number_of_processes(corpus: Path, tmp_path: Path) -> None:
    near = CleaningConfig(near_duplicates=True)
    for num_processes in (1, 2, 3):
        output = tmp_path / str(num_processes)
        build(config_for(corpus, output, num_processes=num_processes, cleaning=near))
    files = digests(tmp_path / "1")
    assert len(files) > 10
    assert files == digests(tmp_path / "2") == digests(tmp_path / "3")


def test_every_document_is_stored_once_and_whole(corpus: Path, dataset: Path) -> None:
    tokenizer = load_tokenizer("byte")
    texts = []
    for split in ("train", "valid"):
        path = str(dataset / split)
        manifest = load_manifest(path)
        reader = ShardReader(path, manifest, DataConfig())
        found = []
        for shard, entry in enumerate(manifest.shards):
            for row in range(entry.samples):
                tokens = reader.tokens(shard, row)
                assert not isinstance(tokens, str)
                assert (tokens[0], tokens[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
                found.append(tokenizer.decode(tokens[1:-1].tolist()))
        assert sum(len(text.encode()) for text in found) == manifest.text_bytes
        # The order of the corpus is kept.
        assert found == sorted(found, key=lambda text: int(text.split()[1]))
        texts += found
    originals = [path.read_text(encoding="utf-8") for path in corpus.glob("*.txt")]
    assert sorted(texts) == sorted(originals)


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_shards_are_plain_webdataset(dataset: Path) -> None:
    manifest = load_manifest(str(dataset / "train"))
    urls = [str(dataset / "train" / entry.name) for entry in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    gc.collect()
    assert len(samples) == manifest.samples
    assert sum(len(sample["tokens.npy"]) for sample in samples) == manifest.tokens
    assert [int(sample["__key__"]) for sample in samples] == list(range(manifest.samples))
    assert samples[0]["json"]["source"].endswith(".txt")
    index = np.load(dataset / "train" / "documents.npy")
    assert index[:, 1].tolist() == [len(sample["tokens.npy"]) for sample in samples]


def test_a_finished_build_is_not_repeated(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(corpus, tmp_path / "out")
    first = build(config)
    monkeypatch.setattr(ProcessPool, "run", pytest.fail)
    assert build(config) == first
    assert build(config.model_copy(update={"num_processes": 2})) == first
    for change in ({"valid_fraction": 0.3}, {"shard_bytes": 5_000}):
        with pytest.raises(DataError, match="another configuration, other sources"):
            build(config.model_copy(update=change))


def test_an_interrupted_build_goes_on_where_it_was(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(corpus, tmp_path / "out")
    whole = config_for(corpus, tmp_path / "whole")
    build(whole)
    written: list[str] = []
    stop_after = 3

    def counting(
        tokenizer: str, fingerprint: str, layout: DocumentLayout, task: ShardTask, work: Path
    ) -> None:
        if len(written) == stop_after:
            raise KeyboardInterrupt
        name = f"{task.split}/{task.name}"
        shard_writer.write_shard(tokenizer, fingerprint, layout, task, work)
        written.append(name)

    monkeypatch.setattr(build_module, "write_shard", counting)
    with pytest.raises(KeyboardInterrupt):
        build(config)
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in written}
    assert len(before) == 3
    # Other settings must not continue this work.
    with pytest.raises(DataError, match="another configuration"):
        build(config.model_copy(update={"valid_fraction": 0.5}))
    stop_after = -1
    monkeypatch.setattr(build_module, "extract_part", pytest.fail)
    build(config)
    assert len(written) == len(set(written))
    after = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before}
    assert after == before
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert not (tmp_path / "out" / ".work").exists()


def kill_self(*_: object) -> None:
    """End this process as the system does when memory runs out."""
    os.kill(os.getpid(), 9)


def test_a_killed_worker_is_reported(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(corpus, tmp_path / "out", num_processes=2)
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "write_shard", kill_self)
        with pytest.raises(DataError, match="a worker process was killed"):
            build(config)
    assert build(config).splits["train"].documents > 0


def test_two_builds_of_one_folder_are_refused(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(corpus, tmp_path / "out")
    monkeypatch.setattr(build_module, "_LOCK_PATIENCE_S", 0.2)

    def second(*_: object) -> None:
        with pytest.raises(DataError, match="another build is writing there"):
            build(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(ProcessPool, "run", second)
    with pytest.raises(KeyboardInterrupt):
        build(config)


def test_the_report_says_what_was_dropped_and_why(
    corpus: Path, tmp_path: Path, train_model: Callable[..., Path]
) -> None:
    text = (corpus / "007.txt").read_text(encoding="utf-8")
    (tmp_path / "copy.txt").write_text(text)
    (tmp_path / "empty.txt").write_text(" \n")
    config = config_for(corpus, tmp_path / "out", tokenizer=str(train_model()))
    report = build(config.model_copy(update={"sources": (str(corpus), f"{tmp_path}/*.txt")}))
    assert report.cleaning["dropped"] == {"empty": 1, "exact duplicate": 1}
    assert report.cleaning["examples"] == {"empty": ["empty.txt"], "exact duplicate": ["copy.txt"]}
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert saved["documents_read"] == 62
    assert saved["splits"]["train"]["documents"] + saved["splits"]["valid"]["documents"] == 60
    shown = str(report)
    assert "62 documents" in shown
    assert "dropped: exact duplicate: 1" in shown


@given(st.lists(st.tuples(st.integers(1, 9000), st.sampled_from([0, 1, 255])), max_size=80))
def test_shards_partition_the_documents(documents: list[tuple[int, int]]) -> None:
    sizes = np.array([size for size, _ in documents], dtype=np.int64)
    splits = np.array([split for _, split in documents], dtype=np.uint8)
    lengths = [min(7, len(sizes) - start) for start in range(0, len(sizes), 7)]
    spans = plan_spans([RowFile(Path("part"), length) for length in lengths], 20)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for span in spans:
            rows = slice(span.first, span.first + span.rows)
            np.savez(
                work / f"choice-{span.number:06d}.npz", split=splits[rows], text_bytes=sizes[rows]
            )
        tasks = plan_shards(BuildConfig(shard_bytes=4_000), spans, work)
        for place, split in enumerate(SPLITS):
            chosen = [task for task in tasks if task.split == split]
            documents_of = [
                [
                    7 * piece.part + row
                    for piece in task.pieces
                    for row in rows_of_piece(split, load_choice(work, piece.span), piece).tolist()
                ]
                for task in chosen
            ]
            expected = np.flatnonzero(splits == place)
            assert [row for rows in documents_of for row in rows] == expected.tolist()
            assert [task.number for task in chosen] == list(range(len(chosen)))
            firsts = np.cumsum([0, *(len(rows) for rows in documents_of)])[:-1]
            assert [task.first for task in chosen] == firsts.tolist()
            # the bytes in front of a document decide its shard
            starts = np.cumsum(sizes[expected]) - sizes[expected]
            before = dict(zip(expected.tolist(), starts.tolist(), strict=True))
            for rows in documents_of:
                assert len({before[row] // 4_000 for row in rows}) == 1
            ends = [before[rows[0]] // 4_000 for rows in documents_of]
            assert len(set(ends)) == len(ends)


def test_language_and_unknown_text_are_recorded(tmp_path: Path) -> None:
    plain = Path(sysconfig.get_path("stdlib")) / "json"
    for byte_fallback, unknown in ((True, 0), (False, 2)):
        model = tmp_path / f"{byte_fallback}.model"
        train_tokenizer(
            TokenizerTrainConfig(
                inputs=(f"{plain}/*.py",),
                output=str(model),
                vocab_size=600,
                byte_fallback=byte_fallback,
            )
        )
        lines = [{"text": "plain words", "language": "en"}, {"text": "plain é, 世 words"}]
        source = tmp_path / "a.jsonl"
        source.write_text("\n".join(json.dumps(line) for line in lines))
        output = tmp_path / str(byte_fallback)
        config = config_for(source, output, tokenizer=str(model), valid_fraction=0)
        report = build(config.model_copy(update={"read": ReadConfig(language="xx")}))
        assert report.splits["train"].unknown_tokens == unknown
        assert ("2 tokens stand for unknown text" in str(report)) == bool(unknown)
        found = list(samples(str(output / "train" / "shard-000000.tar"), StorageConfig()))
        metadata = [json.loads(sample["json"]) for sample in found]
        assert [entry["language"] for entry in metadata] == ["en", "xx"]
        assert [entry["source"] for entry in metadata] == ["a.jsonl"] * 2


def test_documents_that_a_tokenizer_cannot_give_back_are_counted(tmp_path: Path) -> None:
    texts = ["plain words", "two\nlines", "two  blanks", "a\ttab", "more plain words"]
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    exact, lossy = save_model("llama", tmp_path), save_model("t5", tmp_path)
    for model, count in ((exact, 0), (lossy, 3)):
        output = tmp_path / model.stem
        report = build(config_for(source, output, tokenizer=str(model), valid_fraction=0))
        assert report.splits["train"].lossy_documents == count
        assert (f"{count} documents are lossy" in str(report)) == bool(count)
        written = json.loads((output / "report.json").read_text())
        assert written["splits"]["train"]["lossy_documents"] == count
        assert sum(s.lossy_documents for s in load_manifest(str(output / "train")).shards) == count


def test_a_report_of_another_version_is_refused(corpus: Path, tmp_path: Path) -> None:
    config = config_for(corpus, tmp_path / "out")
    build(config)
    report = tmp_path / "out" / "report.json"
    report.write_text('{"splits": {}}')
    with pytest.raises(DataError, match=r"report\.json: not a report of this version"):
        build(config)
