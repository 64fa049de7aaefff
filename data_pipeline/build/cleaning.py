"""Cleaning of single documents, with counts of every step; for duplicates see `duplicates`."""

import re
import unicodedata
from dataclasses import dataclass, field

from data_pipeline.build import gopher
from data_pipeline.cleaning_config import CleaningConfig

# C0 and C1 controls and DEL, without tab, newline, carriage return; NEL (0x85) ends lines
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_EXAMPLE_CHARACTERS = 120


@dataclass
class Counts:
    """Results of cleaning: per reason, a number and a few examples."""

    dropped: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    bad_input: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, reason: str, example: str, num_examples: int) -> None:
        """Count one document under `reason`; `kind` names the table."""
        table: dict[str, int] = getattr(self, kind)
        table[reason] = table.get(reason, 0) + 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < num_examples:
            shown.append(example)

    def merge(self, other: "Counts", num_examples: int) -> None:
        """Add the counts of another part; its examples come last."""
        for kind in ("dropped", "changed", "bad_input"):
            table: dict[str, int] = getattr(self, kind)
            for reason, number in getattr(other, kind).items():
                table[reason] = table.get(reason, 0) + number
        for reason, examples in other.examples.items():
            shown = self.examples.setdefault(reason, [])
            shown.extend(examples[: num_examples - len(shown)])


def example(source: str, text: str) -> str:
    """The name of a document and the beginning of its text."""
    start = " ".join(text[:_EXAMPLE_CHARACTERS].split())
    return f"{source}: {start}" if start else source


def clean(text: str, source: str, config: CleaningConfig, counts: Counts) -> str | None:
    """Clean one document.

    Returns:
        The cleaned text, or None if a filter drops it. Changes and drops are counted.
    """
    num_examples = config.num_examples
    if config.unicode_form != "none" and not unicodedata.is_normalized(config.unicode_form, text):
        text = unicodedata.normalize(config.unicode_form, text)
        counts.add("changed", f"unicode {config.unicode_form}", example(source, text), num_examples)
    if config.control_characters and _CONTROL.search(text):
        text = _CONTROL.sub("", text)
        counts.add("changed", "control characters", example(source, text), num_examples)
    reason = _reason_to_drop(text, config)
    if reason is None:
        return text
    counts.add("dropped", reason, example(source, text), num_examples)
    return None


def _reason_to_drop(text: str, config: CleaningConfig) -> str | None:
    if not text or text.isspace():
        return "empty"
    if len(text) < config.min_characters:
        return "too short"
    if config.max_characters and len(text) > config.max_characters:
        return "too long"
    return gopher.reason_to_drop(text, config.gopher)
