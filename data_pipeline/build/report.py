"""Report of a build: documents read, dropped (and why) and written."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.errors import DataError
from data_pipeline.input_files import read_json
from data_pipeline.shards.manifest import Manifest
from data_pipeline.storage.atomic import write_text_atomically

NAME = "report.json"


class SplitReport(NamedTuple):
    """Totals of a split; lossy documents are those that decoding does not give back."""

    shards: int
    documents: int
    tokens: int
    text_bytes: int
    unknown_tokens: int
    lossy_documents: int = 0


class BuildReport(NamedTuple):
    """Documents that a build read, dropped and wrote.

    Attributes:
        output: Output folder.
        digest: Digest of configuration, sources and tokenizer; equal digests mean equal shards.
        documents_read: Documents found in the sources.
        bytes_read: UTF-8 bytes of these documents.
        cleaning: Numbers by reason (dropped, changed, bad_input), and examples.
        splits: Totals of train and valid, by name.
        seconds: Duration of the build (of its last run, if it was resumed).
    """

    output: str
    digest: str
    documents_read: int
    bytes_read: int
    cleaning: dict[str, Any]
    splits: dict[str, SplitReport]
    seconds: float

    def __str__(self) -> str:
        """The report as text for a terminal."""
        lines = [
            f"{self.output}: {self.documents_read:,} documents, {self.bytes_read:,} bytes read"
        ]
        for name, split in self.splits.items():
            ratio = split.text_bytes / max(split.tokens, 1)
            lines.append(
                f"  {name}: {split.documents:,} documents, {split.tokens:,} tokens, "
                f"{ratio:.2f} bytes per token, {split.shards} shards"
            )
            if split.unknown_tokens:
                lines.append(f"    {split.unknown_tokens:,} tokens stand for unknown text")
            if split.lossy_documents:
                lines.append(
                    f"    {split.lossy_documents:,} documents are lossy: the tokenizer does not "
                    "give their text back (blanks, line ends or characters are changed)"
                )
        for kind, title in (
            ("dropped", "dropped"), ("changed", "changed"), ("bad_input", "skipped as bad input")
        ):  # fmt: skip
            for reason, number in sorted(self.cleaning[kind].items()):
                lines.append(f"  {title}: {reason}: {number:,}")
                lines += [f"    {shown}" for shown in self.cleaning["examples"].get(reason, [])[:1]]
        lines.append(f"  in {self.seconds:.1f} s")
        return "\n".join(lines)

    def save(self, folder: Path) -> None:
        """Write `report.json`."""
        splits = {name: split._asdict() for name, split in self.splits.items()}
        table = self._asdict() | {"splits": splits}
        write_text_atomically(folder / NAME, json.dumps(table, indent=1) + "\n")


def load_report(folder: Path) -> BuildReport | None:
    """The report in `report.json`; None if there is no such file.

    Raises:
        DataError: The file is broken, or has the format of another version.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        table = read_json(path)
        table["splits"] = {name: SplitReport(**split) for name, split in table["splits"].items()}
        return BuildReport(**table)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: not a report of this version ({error}); expected one, or an empty folder"
        ) from error


def describe_split(manifest: Manifest) -> SplitReport:
    """The totals of a manifest."""
    return SplitReport(
        shards=len(manifest.shards),
        documents=manifest.samples,
        tokens=manifest.tokens,
        text_bytes=manifest.text_bytes,
        unknown_tokens=sum(shard.unknown_tokens for shard in manifest.shards),
        lossy_documents=sum(shard.lossy_documents for shard in manifest.shards),
    )
