"""Quality of a spectral language model compared with a Transformer of equal size.

    python -m benchmarks.quality

The Transformer is transformers' Llama (RoPE, SwiGLU, SDPA) with equal parameters (within 2%),
tokenizer, data order, batch and steps; each model gets the best learning rate of a small sweep.
Novels and technical documents (3 seeds of about 1.5M non-embedding parameters, one of about 6M),
multi-query associative recall, and a table of ablations, the best of them with 3 seeds. About six
hours on two cores, one model on each. Every run is a JSON file with commit and machine as soon as
it has ended, and is not run again: with the committed results only times of steps are measured.
`--results FOLDER` of an empty folder trains everything. Table and plot are rewritten after every
stage.
"""

import argparse
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.harness.command import benchmark_parser, run_parsed
from benchmarks.harness.results import ROOT
from benchmarks.harness.texts import DATA, write_small_corpus
from benchmarks.harness.thresholds import Outcome
from benchmarks.quality import plan, text
from benchmarks.quality.bench import Bench, run_stages
from benchmarks.quality.stored import RESULTS


def main() -> None:
    """Run what has no result yet, report after every stage, print the table and the bars."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "lm", help="NAME.train.jsonl.xz, …")
    parser.add_argument("--corpora", nargs="+", default=[*plan.CORPORA], help="names of corpora")
    parser.add_argument("--results", type=Path, default=RESULTS, help="one JSON file per run")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "quality", help="tokens, table and plot"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="models at a time")
    arguments = parser.parse_args()
    if arguments.quick:
        with tempfile.TemporaryDirectory() as name:
            quick_defaults(parser, arguments, Path(name))
            run_parsed("quality", __doc__, arguments, lambda: measure(arguments))
    files = [f"{name}.{split}.jsonl.xz" for name in arguments.corpora for split in plan.SPLITS]
    missing = [file for file in files if not (arguments.data / file).exists()]
    if missing:
        parser.error(f"--data {arguments.data}: expected {', '.join(files)}, lacks {missing[0]}")
    run_parsed("quality", __doc__, arguments, lambda: measure(arguments))


def quick_defaults(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, folder: Path
) -> None:
    """Let the quick form train on the standard library, away from committed results."""
    if arguments.results == parser.get_default("results"):
        arguments.results = folder / "results"
    if arguments.work == parser.get_default("work"):
        arguments.work = folder / "work"
    arguments.data, arguments.corpora = folder / "corpus", ["small"]
    write_small_corpus(arguments.data, "small")


def measure(arguments: argparse.Namespace) -> Outcome:
    """Go through all stages and print the table."""
    budget = plan.BUDGETS["quick" if arguments.quick else "full"]
    tokens = arguments.work / "tokens"
    corpora = text.prepare(arguments.data, arguments.corpora, tokens, budget.megabytes)
    arguments.results.mkdir(parents=True, exist_ok=True)
    # threads of torch do not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, context) as pool:
        bench = Bench(budget, corpora, arguments.results, arguments.work, pool)
        table, figures = run_stages(bench, arguments.corpora)
    print(table)
    return Outcome("Results of all runs, each with its own commit and machine.", figures)


if __name__ == "__main__":
    main()
