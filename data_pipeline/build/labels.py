"""Labels of a build: their names, numbers and counts, from the documents that are kept."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pyarrow import parquet

from data_pipeline.build.duplicates.documents import Span
from data_pipeline.build.planning import DROPPED, SPLITS, load_choice
from data_pipeline.config import BuildConfig
from data_pipeline.errors import DataError
from data_pipeline.shards.make_manifest import LabelTable
from data_pipeline.shards.manifest import MAX_LABELS, Manifest, load_manifest, split_folders


class Labels(NamedTuple):
    """Labels of a build.

    Attributes:
        table: Their names and numbers.
        counts: By split, the number of texts with each label.
    """

    table: LabelTable
    counts: dict[str, list[int]]


def find_labels(config: BuildConfig, spans: Sequence[Span], work: Path) -> Labels:
    """The labels of the documents that are kept; those of another build if one is named.

    Raises:
        DataError: That build lacks one, or there are too many.
    """
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    most, several = 1, ""
    for is_valid, labels in _labels_of(spans, work):
        counts[SPLITS[is_valid]].update(labels)
        most = max(most, len(labels))
        if len(labels) != 1 and not several:
            several = f"one with {len(labels)} labels, {', '.join(labels)[:80]}"
    names = tuple(sorted(set().union(*counts.values())))
    multi = bool(several)
    if config.labels_of:
        manifest = _labels_from(config)
        if unknown := sorted(set(names) - set(manifest.labels)):
            raise DataError(
                f"{', '.join(config.sources)}: the label {unknown[0]!r}; expected one of the "
                f"{len(manifest.labels)} of {config.labels_of} (labels_of)"
            )
        if multi and not manifest.multi_label:
            raise DataError(
                f"{', '.join(config.sources)}: {several}; expected one label for each text, as in "
                f"{config.labels_of} (labels_of)"
            )
        names, multi = manifest.labels, manifest.multi_label
    if not 0 < len(names) <= MAX_LABELS:
        raise DataError(
            f"{', '.join(config.sources)}: {len(names):,} labels; expected 1 to {MAX_LABELS:,}"
        )
    by_split: dict[str, list[int]] = {
        split: [counts[split][name] for name in names] for split in SPLITS
    }
    return Labels(LabelTable(names, most, multi), by_split)


def _labels_from(config: BuildConfig) -> Manifest:
    folder = split_folders(config.labels_of, config.storage)[0]
    manifest = load_manifest(folder, config.storage)
    if manifest.kind != "labelled":
        raise DataError(f"{folder}: holds {manifest.kind}; expected labelled texts (labels_of)")
    return manifest


def _labels_of(spans: Sequence[Span], work: Path) -> Iterator[tuple[int, list[str]]]:
    """Split and labels of each document that is kept, in the order of the corpus."""
    for span in spans:
        splits = load_choice(work, span.number).split.tolist()
        for row_file in span.files:
            of_file, splits = splits[: row_file.rows], splits[row_file.rows :]
            with parquet.ParquetFile(row_file.path) as file:
                column = file.read(columns=["more"], use_threads=False)["more"].to_pylist()
            for split, labels in zip(of_file, column, strict=True):
                if split != DROPPED:
                    yield split, labels
