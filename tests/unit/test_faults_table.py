"""The table of faults in docs/survival.md: that of the committed record, which grows."""

import json
from pathlib import Path

import pytest

from tests.faults.record import PAGE, SUMMARY, Record, table, table_in, write_summary


def test_the_table_of_faults_is_that_of_the_record() -> None:
    _, shown, _ = table_in(PAGE.read_text(encoding="utf-8"))
    assert shown == table(json.loads(SUMMARY.read_text(encoding="utf-8")))


def test_a_folder_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed, page = tmp_path / "record.json", tmp_path / "page.md"
    committed.write_bytes(SUMMARY.read_bytes())
    page.write_bytes(PAGE.read_bytes())
    monkeypatch.setattr("tests.faults.record.SUMMARY", committed)
    monkeypatch.setattr("tests.faults.record.PAGE", page)
    before = json.loads(SUMMARY.read_text(encoding="utf-8"))
    record = Record(tmp_path / "record.jsonl")
    record.append([{"seed": 9**9, "kind": "rank killed", "ranks": 2, "outcome": "ok"}] * 2)
    write_summary(record)
    after = json.loads(committed.read_text(encoding="utf-8"))
    assert after["faults"] == before["faults"] + 2
    assert after["runs"] == before["runs"] + 1
    counts = [r["kinds"]["rank killed"]["by_ranks"]["2"] for r in (before, after)]
    assert counts[1] == counts[0] + 2
    with pytest.raises(SystemExit, match="counted already: seeds 387420489 at"):
        write_summary(record)
