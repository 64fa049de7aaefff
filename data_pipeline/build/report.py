"""The report of a build: what was read, what was dropped and why, what was written."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import Manifest
from data_pipeline.storage.atomic import write_text_atomically

NAME = "report.json"


@dataclass(frozen=True)
class SplitReport:
    """What one split holds."""

    shards: int
    documents: int
    tokens: int
    text_bytes: int
    unknown_tokens: int


@dataclass(frozen=True)
class BuildReport:
    """What a build read, dropped and wrote.

    Attributes:
        output: The folder.
        digest: Identifies configuration, sources and tokenizer; the same digest, the same shards.
        documents_read: Documents found in the sources.
        bytes_read: Their UTF-8 bytes.
        cleaning: Numbers by reason (dropped, changed, bad_input) and examples.
        splits: By name, train and valid.
        seconds: Time of this build (of its last run, if it was continued).
    """

    output: str
    digest: str
    documents_read: int
    bytes_read: int
    cleaning: dict[str, Any]
    splits: dict[str, SplitReport]
    seconds: float

    def render(self) -> str:
        """Return the report as text for a terminal."""
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
        for kind, title in (
            ("dropped", "dropped"), ("changed", "changed"), ("bad_input", "skipped as bad input")
        ):  # fmt: skip
            for reason, number in sorted(self.cleaning[kind].items()):
                lines.append(f"  {title}: {reason}: {number:,}")
                lines += [f"    {shown}" for shown in self.cleaning["examples"].get(reason, [])[:1]]
        lines.append(f"  in {self.seconds:.1f} s")
        return "\n".join(lines)

    __str__ = render

    def save(self, folder: Path) -> None:
        """Write `report.json`."""
        write_text_atomically(folder / NAME, json.dumps(asdict(self), indent=1) + "\n")


def load_report(folder: Path) -> BuildReport | None:
    """Read `report.json`, None when there is none.

    Raises:
        DataError: It is broken, or another version's.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        table["splits"] = {name: SplitReport(**split) for name, split in table["splits"].items()}
        return BuildReport(**table)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path}: not a report of this version ({error}); expected one, or an empty folder"
        ) from error


def describe_split(manifest: Manifest) -> SplitReport:
    """Return the sums of a manifest."""
    return SplitReport(
        shards=len(manifest.shards),
        documents=manifest.samples,
        tokens=manifest.tokens,
        text_bytes=manifest.text_bytes,
        unknown_tokens=sum(shard.unknown_tokens for shard in manifest.shards),
    )
