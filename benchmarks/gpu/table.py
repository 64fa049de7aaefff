"""The figures as a table in Markdown, under the device's name."""

from pathlib import Path

from benchmarks.harness.thresholds import Outcome


def write_table(path: Path, outcome: Outcome) -> None:
    """Write a file that is either complete or absent."""
    lines = [outcome.setting, "", "| what | figure | unit |", "| --- | --- | --- |"]
    lines += [f"| {i.name} | {i.value:.4g} | {i.unit} |" for i in outcome.figures]
    part = path.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.rename(path)
