"""Fields of a record: the text, and its labels or the target of a pair."""

from collections.abc import Mapping
from typing import Any, Literal

from data_pipeline.config import ReadConfig

Kind = Literal["texts", "labelled", "pairs"]


class MissingFieldError(Exception):
    """A record without what it must have.

    Attributes:
        found: What is there.
        expected: What was expected.
    """

    def __init__(self, found: str, expected: str):
        super().__init__(found, expected)
        self.found, self.expected = found, expected


class Fields:
    """Reader of the fields of records of one kind.

    Attributes:
        keys: Keys that every record has.
    """

    def __init__(self, read: ReadConfig, kind: Kind):
        self._kind, self._separator = kind, read.label_separator
        self.keys = {
            "texts": (read.text_key,),
            "labelled": (read.text_key, read.label_key),
            "pairs": (read.source_key, read.target_key),
        }[kind]

    def of(self, record: Any) -> tuple[str, tuple[str, ...]]:
        """The text of a record, and its labels or its target.

        Raises:
            MissingFieldError: It is no object, or lacks a field.
        """
        if not isinstance(record, Mapping):
            name = self.keys[0]
            raise MissingFieldError(
                f"a {type(record).__name__}", f"an object with a string {name!r}"
            )
        text = _string(record, self.keys[0])
        if self._kind == "texts":
            return text, ()
        if self._kind == "labelled":
            return text, self._labels(record, self.keys[1])
        target = _string(record, self.keys[1])
        for key, side in zip(self.keys, (text, target), strict=True):
            if not side or side.isspace():
                raise MissingFieldError(f"{key!r} is empty", "a pair of two texts")
        return text, (target,)

    def _labels(self, record: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = record.get(key)
        if isinstance(value, str) and self._separator:
            value = [part.strip() for part in value.split(self._separator) if part.strip()]
        values = value if isinstance(value, list | tuple) else [value]
        for label in values:
            # a truth value is an integer to Python, and a label like any other
            if not isinstance(label, str | int) or label == "":
                raise MissingFieldError(
                    f"{key!r} is {label!r}; the keys are {sorted(record)[:8]}",
                    f"a label {key!r}, or a list of labels",
                )
        return tuple(dict.fromkeys(str(label) for label in values))


def _string(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise MissingFieldError(
            f"{key!r} is {type(value).__name__}; the keys are {sorted(record)[:8]}",
            f"an object with a string {key!r}",
        )
    return value
