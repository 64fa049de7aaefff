"""Does a spectral language model learn as well as a Transformer of equal size?

    python benchmarks/quality.py

Against transformers' Llama (RoPE, SwiGLU, SDPA) of equal parameters (within 2%), tokenizer, data
order, batch and steps, each with the best of a small sweep of learning rates: novels and
technical documents (3 seeds of about 1.5M non-embedding parameters, one of about 6M), multi-query
associative recall, and a table of ablations, the best of them with 3 seeds. About six hours on
two cores; each core trains a model of its own. Every run's result is a JSON file with commit and
machine as soon as it is there, and is not run again; the table and the plot are made anew after
every stage. `--budget smoke` goes through everything in a minute and says nothing.
"""

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import bars
from benchmarks.quality import plan

DATA = Path(__file__).parents[2] / "shared/data/lm"


def main() -> None:
    """Run what is missing, report after every stage, print the table and the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="NAME.train.jsonl.xz, NAME.valid…")
    parser.add_argument("--corpora", nargs="+", default=["techdocs", "eltec_eng"])
    parser.add_argument("--output", type=Path, default=Path("runs/quality"))
    parser.add_argument("--budget", choices=plan.BUDGETS, default="full")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="models at a time")
    arguments = parser.parse_args()
    files = [f"{name}.{split}.jsonl.xz" for name in arguments.corpora for split in plan.SPLITS]
    missing = [file for file in files if not (arguments.data / file).exists()]
    if missing:
        parser.error(f"--data {arguments.data}: expected {', '.join(files)}, lacks {missing[0]}")
    # they import torch and transformers: not on the way to --help
    from benchmarks.quality import text
    from benchmarks.quality.bench import Bench, measure

    budget, output = plan.BUDGETS[arguments.budget], arguments.output / arguments.budget
    corpora = text.prepare(arguments.data, arguments.corpora, output / "tokens", budget.megabytes)
    # threads of torch do not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, context) as pool:
        table, found = measure(Bench(budget, corpora, output, pool), arguments.corpora)
    print(table)
    bars.judge(found)


if __name__ == "__main__":
    main()
