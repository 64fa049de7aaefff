"""Writing of `manifest.json`."""

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from data_pipeline.shards.manifest import Manifest, ShardEntry, TokenizerEntry
from data_pipeline.tokenizer import Tokenizer

_FIRST_KEYS = ("format", "dtype", "tokenizer", "samples", "tokens", "text_bytes")


def describe_tokenizer(tokenizer: Tokenizer) -> TokenizerEntry:
    """The manifest entry of a tokenizer."""
    return TokenizerEntry(
        kind=tokenizer.kind,
        fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
    )


class LabelTable(NamedTuple):
    """Labels of a build.

    Attributes:
        names: Names, in the order of their numbers.
        slots: Largest number of labels of a text.
        multi: Whether a text may have any number of labels.
    """

    names: tuple[str, ...]
    slots: int
    multi: bool


def make_manifest(
    tokenizer: Tokenizer,
    shards: list[ShardEntry],
    kind: Literal["texts", "labelled", "pairs"] = "texts",
    labels: LabelTable | None = None,
    label_counts: Sequence[int] = (),
) -> Manifest:
    """The manifest of shards, with their totals."""
    return Manifest(
        format=1,
        dtype="uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32",
        tokenizer=describe_tokenizer(tokenizer),
        samples=sum(shard.samples for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        text_bytes=sum(shard.text_bytes for shard in shards),
        kind=kind,
        labels=() if labels is None else labels.names,
        label_counts=tuple(label_counts),
        label_slots=0 if labels is None else labels.slots,
        multi_label=labels is not None and labels.multi,
        shards=tuple(shards),
    )


def dump_manifest(manifest: Manifest) -> str:
    """The JSON text of a manifest, one line per shard."""
    table = manifest.model_dump(mode="json", exclude={"shards"})
    if manifest.kind == "texts":
        # as of versions that had no other kind
        table = {key: value for key, value in table.items() if key in _FIRST_KEYS}
    entries = (msgspec.structs.asdict(shard) for shard in manifest.shards)
    shards = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in table.items())
    return f'{{\n{head},\n "shards": [\n{shards}\n ]\n}}\n'
