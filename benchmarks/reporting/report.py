"""docs/results.md and the README's table of results, from the committed result files.

    python -m benchmarks.reporting.report

Writes both; a test compares the committed files with what this would write. A figure without a
result file does not appear.
"""

import json
import sys
from typing import Any

from benchmarks.harness.results import ROOT, result_path
from benchmarks.harness.thresholds import Figure
from benchmarks.quality.plan import BUDGETS, CORPORA
from benchmarks.quality.report import Report, loss_name, make_report, sources
from benchmarks.quality.stored import RESULTS as QUALITY_RESULTS
from benchmarks.quality.stored import best_rates, read_results
from benchmarks.reporting.catalogue import benchmark_names, command_of

DOCS, README = ROOT / "docs" / "results.md", ROOT / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

INTRODUCTION = """# Results

Written by `python -m benchmarks.reporting.report` from the files in `benchmarks/results`: edits by
hand are lost. `make benchmarks` measures again what is outdated, then writes this page and the
table in the README. Ratios are of two measurements within one run. A bar is a figure that a
benchmark must reach. Load is the load average of the machine just before the run: from about 1 on,
other work ran at the same time.
"""

# README: benchmark and name of the figure, and the words for it
HIGHLIGHTS = {
    ("quality", loss_name("techdocs", "small", "spectral")): (
        "Loss on held-out technical documents after 2.9M tokens, Resonance, 1.45M parameters"
    ),
    ("quality", loss_name("techdocs", "small", "transformer")): (
        "The same for Llama with equal parameters, data and steps, at its best learning rate"
    ),
    ("mixer", "time of naive attention over mixing's, 2,048 tokens"): (
        "Time of naive attention over that of spectral mixing, 2,048 tokens"
    ),
    ("mixer", "time of scaled_dot_product_attention over mixing's, 2,048 tokens"): (
        "Time of `scaled_dot_product_attention` over that of spectral mixing, 2,048 tokens"
    ),
    ("mixer", "time of scaled_dot_product_attention over mixing's, 16,384 tokens"): (
        "The same, 16,384 tokens"
    ),
    ("decode", "time per token at position 200,000 over that at 100"): (
        "Decoding: time per token at position 200,000 over that at position 100"
    ),
}


def results_page() -> str:
    """The text of docs/results.md."""
    parts = [INTRODUCTION]
    for name in benchmark_names():
        if name == "quality":
            parts.append(_quality_section(_quality_report()))
        elif result_path(name).exists():
            parts.append(_section(json.loads(result_path(name).read_text(encoding="utf-8"))))
    return "\n".join(parts)


def readme_with_table(text: str) -> str:
    """A README with its table of results replaced.

    Args:
        text: The README, with one pair of markers.

    Raises:
        SystemExit: The markers are missing, or a result file lacks a figure of the table.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        sys.exit(f"{README.name}: expected one {BEGIN} and, after it, one {END}")
    head, _, tail = text.partition(BEGIN)
    return f"{head}{BEGIN}\n{readme_table()}{END}{tail.partition(END)[2]}"


def readme_table() -> str:
    """The README's table: the highlights that have a result."""
    lines = ["| what | figure | unit | command |", "| --- | --- | --- | --- |"]
    quality = {figure.name: (figure.value, figure.unit) for figure in _quality_report().figures}
    for (benchmark, name), words in HIGHLIGHTS.items():
        figures = quality if benchmark == "quality" else _figures(benchmark)
        if figures is None:
            continue
        if name not in figures:
            sys.exit(f"{result_path(benchmark)}: expected a figure {name!r}, found {[*figures]}")
        value, unit = figures[name]
        lines.append(f"| {words} | {number(value)} | {unit} | `{command_of(benchmark)}` |")
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """A figure with four significant digits, or as a whole number from 1,000 on."""
    if value == round(value) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    digits = f"{value:.4g}"
    return digits if "e" not in digits else f"{value:.1e}"


def _figures(benchmark: str) -> dict[str, tuple[float, str]] | None:
    path = result_path(benchmark)
    if not path.exists():
        return None
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {row["name"]: (row["figure"], row["unit"]) for row in rows}


def _section(record: dict[str, Any]) -> str:
    machine = record["machine"]
    figures = [
        Figure(row["name"], row["figure"], row["unit"], row["limit"], row["at_most"])
        for row in record["rows"]
    ]
    return "\n".join(
        [
            f"## {record['title'].rstrip('.')}",
            f"`{command_of(record['benchmark'])}`: {record['date']}, commit {record['commit']}, "
            f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB, "
            f"torch {machine['torch']}, Python {machine['python']}, load {record['load']}, "
            f"{record['seconds']:,} s.",
            record["setting"],
            "",
            *_table(figures),
            "",
        ]
    )


def _table(figures: list[Figure]) -> list[str]:
    lines = ["| what | figure | unit | bar | verdict |", "| --- | --- | --- | --- | --- |"]
    verdicts = {True: "holds", False: "falls short", None: ""}
    for figure in figures:
        bound = "at most" if figure.at_most else "at least"
        bar = "" if figure.limit is None else f"{bound} {number(figure.limit)}"
        lines.append(
            f"| {figure.name} | {number(figure.value)} | {figure.unit} | {bar} | "
            f"{verdicts[figure.holds]} |"
        )
    return lines


def _quality_report() -> Report:
    budget, results = BUDGETS["full"], read_results(QUALITY_RESULTS)
    best = best_rates(results.values(), CORPORA, budget)
    return make_report(results, CORPORA, budget, best)


def _quality_section(report: Report) -> str:
    return "\n".join(
        [
            "## Quality compared with a Transformer of equal size",
            f"`{command_of('quality')}`: results of the runs in `benchmarks/results/quality`.",
            "Losses are in nats per token on held-out text, each model at its best learning rate;",
            "[quality.md](quality.md) has the conditions, all learning rates and the limits.",
            "",
            *report.losses,
            "",
            "Multi-query associative recall, the better of two learning rates:",
            "",
            *report.recall,
            "",
            *_table([figure for figure in report.figures if figure.limit is not None]),
            "",
            "One change at a time of a plain model, technical documents:",
            "",
            *report.ablations,
            "",
            "Commits and machines of these results:",
            "",
            *(f"- {source}" for source in sources(read_results(QUALITY_RESULTS))),
            "",
        ]
    )


def main() -> None:
    """Write both files."""
    readme = readme_with_table(README.read_text(encoding="utf-8"))
    DOCS.write_text(results_page(), encoding="utf-8")
    README.write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    main()
