"""Files of JSON lines with damage of every kind."""

import json
from pathlib import Path

import pytest

from launch.json_lines import mend_lines, read_lines

GOOD = b'{"n": 1}\n{"n": 2}\n'


def _has_n(record: dict[str, object]) -> bool:
    return isinstance(record.get("n"), int)


@pytest.mark.parametrize(
    "damage",
    [
        b'{"n": 3\n',
        b'{"n": 3',
        b"\0" * 512 + b"\n",
        b"\xff\xfe{}\n",
        b"[1]\n",
        b"null\n",
        b'{"m": 3}\n',
        b'{"n": "3"}\n',
        b"[" * 100_000 + b"\n",
        b'{"n": ' + b"9" * 5_000 + b"}\n",
    ],
)
def test_lines_that_hold_no_record_are_put_aside(damage: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    first, second = GOOD.splitlines(keepends=True)
    whole = damage if damage.endswith(b"\n") else damage + b"\n"
    file.write_bytes(first + whole + second + damage)
    assert [record["n"] for record in read_lines(file, _has_n)] == [1, 2]
    message = mend_lines(file, _has_n)
    assert message.startswith(f"{file}: 2 of 4 lines cannot be read; the file is kept as x.jsonl.")
    assert file.read_bytes() == GOOD
    aside = tmp_path / "x.jsonl.unreadable-1"
    assert aside.read_bytes() == first + whole + second + damage
    assert mend_lines(file, _has_n) == ""
    file.write_bytes(damage)
    assert "kept as x.jsonl.unreadable-2" in mend_lines(file, _has_n)
    assert file.read_bytes() == b""


def test_a_record_without_its_newline_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(GOOD.rstrip())
    assert mend_lines(file) == ""
    assert file.read_bytes() == GOOD
    # a line break of Unicode is no end of a line
    file.write_text(json.dumps({"n": "a\u2028b"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert mend_lines(file) == ""
    assert read_lines(file) == [{"n": "a\u2028b"}]


def test_what_is_no_file_is_put_aside(tmp_path: Path) -> None:
    folder = tmp_path / "x.jsonl"
    assert mend_lines(folder) == ""
    folder.mkdir()
    assert "cannot be read as a file; kept as x.jsonl.unreadable-1" in mend_lines(folder)
    assert not folder.exists()
