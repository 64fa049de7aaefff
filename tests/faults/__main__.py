"""Faults by the thousand: small runs of 1, 2 and 4 ranks, struck at random, checked bit by bit.

python -m tests.faults --folder build/faults --hours 3      # continues where it stopped
python -m tests.faults --folder build/faults --summary      # counts by kind, for the docs
python -m tests.faults --seed 17 --faults 1                 # one seed
"""

import argparse
import json
import signal
from pathlib import Path

from tests.faults.driver import Driver
from tests.faults.kinds import KINDS, missing
from tests.faults.plan import plan_of
from tests.faults.record import Record, summary, write_summary


def main() -> int:
    """Run what is asked for; 1 if a run has failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("build/faults"), help="for the record")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--faults", type=int, default=10**9, help="stop after so many")
    parser.add_argument("--hours", type=float, default=3.0, help="stop after so long")
    parser.add_argument("--only", nargs="+", metavar="KIND", choices=KINDS, help="; ".join(KINDS))
    parser.add_argument("--without", nargs="+", metavar="KIND", choices=KINDS, default=[])
    parser.add_argument("--summary", action="store_true", help="add it to the committed one")
    parser.add_argument("--plan", action="store_true", help="print the seed's plan")
    options = parser.parse_args()
    lacking = missing()
    for name, program in lacking.items():
        print(f"left out: {name}, for lack of {program}")
    kinds = [
        name
        for name in options.only or KINDS
        if name not in lacking and name not in options.without
    ]
    if options.plan:
        print(json.dumps(plan_of(options.seed, kinds), indent=1))
        return 0
    if options.summary:
        write_summary(Record(options.folder / "record.jsonl"))
        return 0
    driver = Driver(options.folder, kinds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: driver.stopping.set())
    try:
        driver.run_many(options.seed, options.faults, 3600 * options.hours)
    finally:
        driver.close()
    result = summary(driver.record.lines())
    print({name: row["faults"] for name, row in result["kinds"].items()})
    print(f"{result['faults']} faults in {result['runs']} runs; failed: {result['failed_seeds']}")
    return bool(result["failed_seeds"])


if __name__ == "__main__":
    raise SystemExit(main())
