"""The table of faults in docs/survival.md is that of the committed record."""

import json
from pathlib import Path

from tests.faults.record import SUMMARY, table

PAGE = Path(__file__).parents[2] / "docs" / "survival.md"


def test_the_table_of_faults_is_that_of_the_record() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = page.partition("<!-- faults: begin -->\n")[2].partition("\n<!-- faults: end -->")[0]
    assert shown == table(json.loads(SUMMARY.read_text(encoding="utf-8")))
