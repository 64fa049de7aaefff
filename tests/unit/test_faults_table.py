"""The table of faults in docs/survival.md is that of the committed record."""

import json

from tests.faults.record import PAGE, SUMMARY, table, table_in


def test_the_table_of_faults_is_that_of_the_record() -> None:
    _, shown, _ = table_in(PAGE.read_text(encoding="utf-8"))
    assert shown == table(json.loads(SUMMARY.read_text(encoding="utf-8")))
