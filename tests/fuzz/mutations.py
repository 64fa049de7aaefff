"""Strategies for files that are almost valid: of their bytes, and of the trees in JSON and TOML."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

# eight bytes that headers and lengths are overwritten with
_WORDS = [b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff" * 7 + b"\x7f", b"\x80" + b"\0" * 7]
_TEXTS = [b"\n", b'"', b"{", b"\\ud800", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"[" * 3000, b"9" * 5000]

# written in place of a value that `json` would not write so
_DEEP, _LONG, _HALF = "@deep@", "@long@", "@half@"
_RAW = {
    f'"{_DEEP}"': "[" * 3000 + "]" * 3000,
    f'"{_LONG}"': "9" * 5000,
    f'"{_HALF}"': '"\\ud800"',
}
_STRANGE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63,
    -(2**63), 10**30, "", "3", "x", "../../x", "/dev/zero", "\0", "é" * 300, [], {}, [[]], [0],
    {"a": 0}, _DEEP, _LONG, _HALF,
]  # fmt: skip


@st.composite
def mutated_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """A file with a few of its bytes changed, cut, repeated or added."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, 64))
        match draw(st.sampled_from(["flip", "word", "text", "cut", "leave out", "repeat", "many"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "word":
                data[at : at + 8] = draw(st.sampled_from(_WORDS))
            case "text":
                data[at:at] = draw(st.sampled_from(_TEXTS))
            case "cut":
                del data[at:]
            case "leave out":
                del data[at : at + length]
            case "repeat":
                data[at:at] = data[at : at + length]
            case _:
                data[at:at] = data[at : at + length] * 1000
    return bytes(data)


@st.composite
def mutated_json(draw: st.DrawFn, valid: bytes) -> bytes:
    """A JSON file with a few of its values of another type or size, missing or added."""
    text = json.dumps(draw(mutated_tree(json.loads(valid))))
    for written, raw in _RAW.items():
        text = text.replace(written, raw)
    return text.encode()


@st.composite
def mutated_tree(draw: st.DrawFn, tree: Any) -> Any:
    """A tree with a few of its values of another type or size, missing or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(tree))
        if not places:
            return copy.deepcopy(draw(st.sampled_from(_STRANGE)))
        container, key = places[draw(st.integers(0, len(places) - 1))]
        strange = copy.deepcopy(draw(st.sampled_from(_STRANGE)))
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "root"])):
            case "remove":
                del container[key]
            case "add" if isinstance(container, dict):
                container[f"{key}x"] = copy.deepcopy(container[key])
            case "add":
                container.insert(key, copy.deepcopy(container[key]))
            case "root" if draw(st.integers(0, 9)) == 0:
                tree = strange
            case _:
                container[key] = strange
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """All (container, key) of a tree."""
    items = (
        list(tree.items())
        if isinstance(tree, dict)
        else list(enumerate(tree))
        if isinstance(tree, list)
        else []
    )
    for key, value in items:
        yield tree, key
        yield from _places(value)


Mutation = Callable[[bytes], st.SearchStrategy[bytes]]
