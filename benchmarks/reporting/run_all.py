"""All benchmarks in their full form, then docs/results.md and the README's table.

    make benchmarks                             # hours: see docs/results.md for each one's time
    make benchmarks BENCHMARKS="mixer data"     # only these

A benchmark is skipped if no source has changed since the commit of its result file. Commit sources
first: results of changed files are marked "-dirty" and are measured again. The quality benchmark
keeps a result per run and decides by itself which runs are missing. Exits with 1 if a benchmark
falls short or fails; all others run nevertheless.
"""

import argparse
import subprocess
import sys
import time

from benchmarks.harness.command import NO_DEVICE_STATUS
from benchmarks.harness.results import ROOT, is_current, result_path
from benchmarks.reporting import report
from benchmarks.reporting.catalogue import benchmark_names, command_of


def run_one(name: str) -> str:
    """How a benchmark ended: "current", "holds", "falls short", "no device" or "failed"."""
    path, options = result_path(name), []
    if name != "quality":
        if is_current(path):
            return "current"
        options = ["--json", str(path)]
    before = path.stat().st_mtime_ns if path.exists() else None
    command = [sys.executable, *command_of(name).split()[1:], *options]
    status = subprocess.run(command, cwd=ROOT).returncode
    if status in (0, NO_DEVICE_STATUS):
        return "holds" if status == 0 else "no device"
    written = path.exists() and path.stat().st_mtime_ns != before
    return "falls short" if status == 1 and (written or name == "quality") else "failed"


def main() -> None:
    """Run what is asked for and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="benchmarks; all if none is named")
    names = parser.parse_args().names or benchmark_names()
    unknown = sorted(set(names) - set(benchmark_names()))
    if unknown:
        parser.error(f"expected some of {', '.join(benchmark_names())}, found {unknown[0]}")
    ends: dict[str, str] = {}
    for name in names:
        print(f"\n== {command_of(name)}", flush=True)
        started_s = time.perf_counter()
        ends[name] = run_one(name)
        print(f"== {name}: {ends[name]}, {time.perf_counter() - started_s:,.0f} s", flush=True)
    report.main()
    print("\n" + "\n".join(f"{name:>14}: {end}" for name, end in ends.items()))
    sys.exit(any(end in ("falls short", "failed") for end in ends.values()))


if __name__ == "__main__":
    main()
