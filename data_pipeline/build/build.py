"""`resonance data build`: sources to shards, in parallel, resumable after any interruption.

Three stages: parts of the corpus are read and cleaned (`extract`), documents are chosen and divided
into shards (`planning`), shards are tokenized and written (`shard_writer`). What a stage has
finished has its final name in `.work`, so the next run resumes from there.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from data_pipeline.build.cleaning import Counts
from data_pipeline.build.duplicates.contamination import file_digest, read_texts, save_hashes
from data_pipeline.build.duplicates.documents import RowFile
from data_pipeline.build.duplicates.earlier import (
    earlier_file,
    earlier_shards,
    identities,
    read_earlier,
)
from data_pipeline.build.extract import (
    extract_part,
    is_finished,
    load_record,
    ngram_file,
    part_file,
)
from data_pipeline.build.labels import Labels, find_labels
from data_pipeline.build.needs import NEEDS
from data_pipeline.build.output_checks import (
    WORK,
    check_files_outside,
    check_foreign,
    check_output_outside,
    damage,
    remove_partial_files,
)
from data_pipeline.build.planning import SPLITS, ShardTask, choose_documents, plan_shards
from data_pipeline.build.report import NAME as REPORT_NAME
from data_pipeline.build.report import BuildReport, SplitReport, describe_split, load_report
from data_pipeline.build.shard_writer import DocumentLayout, load_finished, write_shard
from data_pipeline.build.sources import Part, SourceFile, plan_parts, source_files
from data_pipeline.build.workers.interface import Workers
from data_pipeline.build.workers.opening import open_workers
from data_pipeline.config import BuildConfig
from data_pipeline.errors import DataError, WriteError
from data_pipeline.idle_keys import idle_keys
from data_pipeline.shards.make_manifest import dump_manifest, make_manifest
from data_pipeline.shards.manifest import INDEX_NAME, ShardEntry, index_header
from data_pipeline.shards.manifest import NAME as MANIFEST_NAME
from data_pipeline.storage.atomic import disk_errors, write_atomically, write_text_atomically
from data_pipeline.tokenizer import Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

_LOCK_PATIENCE_S = 5.0
# keys that the shards do not depend on, or only by the contents of files
_LEFT_OUT = ("num_processes", "cluster", "against", "decontaminate", "decontaminate_ngram")


def build(config: BuildConfig) -> BuildReport:
    """Clean, tokenize and write a corpus to `config.output`.

    A finished build of the same configuration, sources and tokenizer is left as it is; an
    interrupted one is resumed.

    Returns:
        The report of the build.

    Raises:
        DataError: The sources are unusable, input is bad and not to be skipped, no document is
            left, the disk is full, or the output folder holds something else.
    """
    started_s = time.monotonic()
    output = Path(config.output)
    for line in idle_keys(config, BuildConfig(), NEEDS):
        print(line, file=sys.stderr)
    tokenizer = load_tokenizer(config.tokenizer)
    check_output_outside(config.sources, output)
    files = source_files(config.sources, config.read, config.storage)
    check_files_outside(files, output)
    digest = _digest(config, files, tokenizer)
    finished = load_report(output)
    if finished is not None and finished.digest != digest:
        raise _other_build(output)
    if finished is not None:
        problem = damage(output, finished)
        if not problem:
            _warn_of_empty_splits(finished, config)
            return finished
        logger.warning("%s; the build is repeated", problem)
    else:
        check_foreign(output)
    work = output / WORK
    with disk_errors(output):
        for folder in (work, *(output / split for split in SPLITS)):
            folder.mkdir(parents=True, exist_ok=True)
    with _locked(work), _resumable():
        _claim(work, digest)
        # of a build that is repeated: until it is finished again, there is none
        (output / REPORT_NAME).unlink(missing_ok=True)
        remove_partial_files(output)
        parts = plan_parts(files, config.read, config.part_bytes)
        with open_workers(config, work, work / "digest") as workers:
            report = _run(config, tokenizer, parts, work, workers)
        report = report._replace(digest=digest, seconds=time.monotonic() - started_s)
        report.save(output)
    shutil.rmtree(work)
    _warn_of_empty_splits(report, config)
    return report


def _warn_of_empty_splits(report: BuildReport, config: BuildConfig) -> None:
    """Name a split that got no document, unless none was asked for: training would refuse it."""
    for name, split in report.splits.items():
        if not split.documents and (name != "valid" or config.valid_fraction):
            print(
                f"{config.output}/{name}: empty: valid_fraction is {config.valid_fraction} of "
                f"{sum(each.documents for each in report.splits.values())} documents, chosen by "
                "their hash; a run cannot read it. Build from more documents or with another "
                "valid_fraction",
                file=sys.stderr,
            )


def _digest(config: BuildConfig, files: list[SourceFile], tokenizer: Tokenizer) -> str:
    """A digest of everything that the shards depend on."""
    settings = config.model_dump(
        mode="json", exclude={"storage", "output", "tokenizer", *_LEFT_OUT}
    )
    if config.against:
        settings["against"] = identities(config.against, config.storage)
    if config.decontaminate:
        ngram = config.decontaminate_ngram
        settings["decontaminate"] = [ngram, *(file_digest(path) for path in config.decontaminate)]
    listed = [(file.name, file.size, file.version) for file in files]
    identity = json.dumps([2, settings, listed, tokenizer.fingerprint], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


def _other_build(output: Path) -> DataError:
    return DataError(
        f"{output}: holds shards of another configuration, other sources or another tokenizer; "
        "expected an empty folder, or one of this build. Remove it or choose another output."
    )


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Lock out a second build; wait a few seconds for the workers of a killed build to end."""
    with (work / "lock").open("wb") as file:
        deadline_s = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline_s:
                    raise DataError(
                        f"{work.parent}: another build is writing there; expected it to end first"
                    ) from error
                time.sleep(0.1)
        yield


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Say after a failed write what is true of a build alone."""
    try:
        yield
    except WriteError as error:
        raise WriteError(f"{error} The same command resumes the work.") from error


def _claim(work: Path, digest: str) -> None:
    """Record which build the folder belongs to."""
    path = work / "digest"
    if not path.is_file():
        write_text_atomically(path, digest)
    elif path.read_text(encoding="utf-8") != digest:
        raise _other_build(work.parent)


def _run(
    config: BuildConfig, tokenizer: Tokenizer, parts: list[Part], work: Path, workers: Workers
) -> BuildReport:
    if config.decontaminate and not ngram_file(work).is_file():
        _save_ngrams(config, work)
    missing = [part for part in parts if not is_finished(work, part.number)]
    workers.run("clean", extract_part, [(config, part, work) for part in missing])
    records = [load_record(work, part.number) for part in parts]
    files = [
        RowFile(part_file(work, part.number), record.documents)
        for part, record in zip(parts, records, strict=True)
    ]
    earlier = _read_earlier(config, tokenizer, work, workers)
    spans, counts = choose_documents(config, earlier, files, work, workers)
    totals = Counts()
    for record in records:
        totals.merge(record.counts, config.cleaning.num_examples)
    totals.merge(counts, config.cleaning.num_examples)
    documents_read = sum(record.documents_read for record in records)
    shards = plan_shards(config, spans, work)
    is_labelled = config.kind == "labelled"
    labels = find_labels(config, spans, work) if is_labelled and shards else None
    if not shards:
        raise DataError(
            f"{', '.join(config.sources)}: none of {documents_read} documents is left (dropped: "
            f"{totals.dropped}, bad input: {totals.bad_input}); expected at least one"
        )
    return BuildReport(
        output=str(work.parent),
        digest="",
        documents_read=documents_read,
        bytes_read=sum(record.bytes_read for record in records),
        cleaning=asdict(totals),
        splits=_write_shards(config, tokenizer, shards, labels, work, workers),
        seconds=0.0,
    )


def _save_ngrams(config: BuildConfig, work: Path) -> None:
    length, limit = config.decontaminate_ngram, config.read.max_document_bytes
    texts = read_texts(config.decontaminate, length, limit)
    if texts.num_short:
        print(
            f"decontaminate: {texts.num_short} of {texts.num_texts} texts have fewer than "
            f"{config.decontaminate_ngram} words and cannot be found",
            file=sys.stderr,
        )
    save_hashes(ngram_file(work), texts)


def _read_earlier(
    config: BuildConfig, tokenizer: Tokenizer, work: Path, workers: Workers
) -> list[RowFile]:
    """The files of what documents of earlier builds are compared by."""
    shards = earlier_shards(config.against, tokenizer, config.storage)
    files = [earlier_file(work, number, shard) for number, shard in enumerate(shards)]
    tasks = [
        (config, shard, file.path)
        for shard, file in zip(shards, files, strict=True)
        if not file.path.is_file()
    ]
    workers.run("earlier builds", read_earlier, tasks)
    return files


def _write_shards(
    config: BuildConfig,
    tokenizer: Tokenizer,
    shards: list[ShardTask],
    labels: Labels | None,
    work: Path,
    workers: Workers,
) -> dict[str, SplitReport]:
    """Write the missing shards, and a manifest per split."""
    output = work.parent
    table = None if labels is None else labels.table
    missing = [task for task in shards if load_finished(work, output / task.split, task) is None]
    layout = DocumentLayout(config.kind, table)
    tasks = [(config.tokenizer, tokenizer.fingerprint, layout, task, work) for task in missing]
    workers.run("tokenize", write_shard, tasks)
    splits: dict[str, SplitReport] = {}
    for split in SPLITS:
        # read twice, since the rows of all shards may not fit into memory
        written = [task for task in shards if task.split == split]
        entries = [entry for entry, _ in _finished(written, work)]
        counts = () if labels is None else labels.counts[split]
        manifest = make_manifest(tokenizer, entries, config.kind, table, counts)
        with write_atomically(output / split / INDEX_NAME) as file:
            file.write(index_header(manifest.samples))
            file.writelines(rows for _, rows in _finished(written, work))
        write_text_atomically(output / split / MANIFEST_NAME, dump_manifest(manifest))
        splits[split] = describe_split(manifest)
    return splits


def _finished(tasks: list[ShardTask], work: Path) -> Iterator[tuple[ShardEntry, bytes]]:
    for task in tasks:
        shard = load_finished(work, work.parent / task.split, task)
        if shard is None:
            raise DataError(f"{task.name}: it was written and is gone; expected no other writer")
        yield shard
