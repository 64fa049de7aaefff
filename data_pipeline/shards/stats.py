"""`resonance data stats`: numbers of tokens and documents, and lengths of the documents."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.config import StatsConfig, StorageConfig
from data_pipeline.errors import WriteError
from data_pipeline.redaction import redact
from data_pipeline.shards.manifest import (
    Manifest,
    first_rows,
    load_manifest,
    read_rows,
    split_folders,
)
from data_pipeline.storage.atomic import disk_errors, write_atomically

_BAR_CHARACTERS = 40
# bin i counts documents of [2**i, 2**(i + 1)) tokens
_NUM_BINS = 40


class SplitStats(NamedTuple):
    """Totals of a split, and its number of documents by length in powers of two."""

    path: str
    documents: int
    tokens: int
    text_bytes: int
    shards: int
    shortest: int
    longest: int
    histogram: tuple[int, ...]

    def __str__(self) -> str:
        """The numbers and a histogram as text for a terminal."""
        lines = [
            f"{self.path}: {self.documents:,} documents, {self.tokens:,} tokens, "
            f"{self.text_bytes:,} bytes of text, {self.shards} shards",
            f"  {self.text_bytes / max(self.tokens, 1):.2f} bytes per token, "
            f"{self.tokens / max(self.documents, 1):,.0f} tokens per document, "
            f"from {self.shortest:,} to {self.longest:,}",
        ]
        most = max(self.histogram)
        for number, count in enumerate(self.histogram):
            if count:
                bar = "#" * max(round(count / most * _BAR_CHARACTERS), 1)
                lines.append(f"  {2**number:>12,} tokens and more: {count:>12,} {bar}")
        return "\n".join(lines)


class StatsReport(NamedTuple):
    """Statistics of all splits of a folder, and the path of the plot if one was drawn."""

    splits: tuple[SplitStats, ...]
    png: str

    def __str__(self) -> str:
        """The report as text for a terminal."""
        drawn = [f"histogram: {self.png}"] if self.png else []
        return "\n".join([*(str(split) for split in self.splits), *drawn])


def stats(config: StatsConfig) -> StatsReport:
    """Count tokens, documents and lengths, from the manifest and the index alone.

    Raises:
        DataError: The manifest is missing, or its index is unreadable.
    """
    folders = split_folders(config.path, config.storage)
    splits = tuple(
        _split_stats(folder, load_manifest(folder, config.storage), config.storage)
        for folder in folders
    )
    if config.png:
        try:
            _draw(splits, Path(config.png))
        except WriteError:
            # the figures are no worse for it
            print(StatsReport(splits, ""), flush=True)
            raise
    return StatsReport(splits, config.png)


def _split_stats(folder: str, manifest: Manifest, storage: StorageConfig) -> SplitStats:
    histogram = np.zeros(_NUM_BINS, dtype=np.int64)
    shortest, longest = np.iinfo(np.int64).max, 0
    for number, first in enumerate(first_rows(manifest)[:-1].tolist()):
        lengths = read_rows(folder, manifest, number, first, storage)[:, 1]
        histogram += np.bincount(np.log2(lengths).astype(np.int64), minlength=_NUM_BINS)
        shortest, longest = min(shortest, int(lengths.min())), max(longest, int(lengths.max()))
    return SplitStats(
        path=redact(folder),
        documents=manifest.samples,
        tokens=manifest.tokens,
        text_bytes=manifest.text_bytes,
        shards=len(manifest.shards),
        shortest=shortest if manifest.samples else 0,
        longest=longest,
        histogram=tuple(histogram.tolist()),
    )


def _draw(splits: tuple[SplitStats, ...], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    last = max(number for split in splits for number, count in enumerate(split.histogram) if count)
    edges = [2**number for number in range(last + 2)]
    for split in splits:
        name = split.path.rstrip("/").rsplit("/", 1)[-1]
        axes.stairs(split.histogram[: last + 1], edges, label=name, fill=True, alpha=0.5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("symlog")
    axes.set(xlabel="tokens per document", ylabel="documents", title="Document lengths")
    axes.legend()
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=150)
