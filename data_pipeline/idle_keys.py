"""Keys that a configuration sets and that have no effect in it (imports no torch)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel


class Need(NamedTuple):
    """A condition without which keys have no effect.

    Attributes:
        keys: The keys, or tables of them.
        is_met: Whether they have an effect in a configuration.
        text: The condition as a message says it.
    """

    keys: tuple[str, ...]
    is_met: Callable[[Any], bool]
    text: str


def leaves(table: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all keys, those of nested tables included."""
    for key, value in table:
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def idle_keys(config: BaseModel, default: BaseModel, needs: Sequence[Need]) -> Iterator[str]:
    """A line for each key that differs from its default and has no effect.

    Args:
        config: The configuration.
        default: The same with defaults.
        needs: Conditions of its keys.
    """
    defaults = dict(leaves(default))
    for key, value in leaves(config):
        if value == defaults[key]:
            continue
        for need in needs:
            named = any(key == name or key.startswith(f"{name}.") for name in need.keys)
            if named and not need.is_met(config):
                yield f"{key} = {value} has no effect without {need.text}"
                break
