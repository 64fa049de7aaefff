"""The command line that every benchmark has."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness.results import result_record, start, write_json
from benchmarks.harness.thresholds import Outcome, print_bars

# exit status of a benchmark whose device this machine lacks
NO_DEVICE_STATUS = 77


def benchmark_parser(doc: str) -> argparse.ArgumentParser:
    """The options of all benchmarks.

    Args:
        doc: Docstring of the benchmark; its first line is the description.
    """
    parser = argparse.ArgumentParser(description=title(doc))
    parser.add_argument("--quick", action="store_true", help="tiny sizes; judges no bar")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return parser


def run_benchmark(name: str, doc: str, measure: Callable[[bool], Outcome]) -> None:
    """Measure as the command line says; print a line per bar; exit with 1 if one falls short.

    Args:
        name: The benchmark.
        doc: Its docstring.
        measure: Prints the table; its argument is whether to take the quick form.
    """
    arguments = benchmark_parser(doc).parse_args()
    run_parsed(name, doc, arguments, lambda: measure(arguments.quick))


def run_parsed(
    name: str, doc: str, arguments: argparse.Namespace, measure: Callable[[], Outcome]
) -> None:
    """As `run_benchmark`, for a benchmark that has parsed further options."""
    if arguments.quick and arguments.json:
        sys.exit("--json: expected a full run, found --quick, whose figures say nothing")
    started = start(name)
    outcome = measure()
    record = result_record(name, title(doc), outcome, started)
    if arguments.json:
        write_json(arguments.json, record)
    sys.exit(not print_bars(outcome.figures, judged=not arguments.quick))


def title(doc: str) -> str:
    """The first line of a docstring."""
    return doc.splitlines()[0]
