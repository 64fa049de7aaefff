"""Names of all benchmarks: every module and package of `benchmarks` but its own machinery."""

from benchmarks.harness.results import ROOT

NOT_BENCHMARKS = {"__init__", "__pycache__", "harness", "reporting", "results"}


def benchmark_names() -> list[str]:
    """The benchmarks in alphabetical order."""
    return sorted({path.stem for path in (ROOT / "benchmarks").iterdir()} - NOT_BENCHMARKS)


def command_of(name: str) -> str:
    """The command that runs a benchmark."""
    return f"python -m benchmarks.{name}"
