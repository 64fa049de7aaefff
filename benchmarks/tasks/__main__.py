"""Labels of texts, learned from scratch: spectral classifiers, Transformers and TF-IDF.

    python -m benchmarks.tasks [--data FILE.csv] [--results FOLDER]

Two tasks, each with three seeds. **Word order**: sentences made by rule, of words from the comments
of the standard library; the label is whether subject and object are exchanged, and no bag of words
or of pairs of words can tell. **Intents**, with --data: a CSV of texts and labels such as
banking77's training file; a tenth of it is held out by the hash of the text. All models train on
the same batches and have equally many parameters; a linear SVM of TF-IDF is fitted to the same
texts. With --results each run is kept there, and one that is there is not trained again.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.harness.command import benchmark_parser, run_parsed
from benchmarks.harness.thresholds import Figure, Outcome
from benchmarks.tasks.data import KINDS, Budget, Task, make_task, word_order
from benchmarks.tasks.models import linear_floor
from benchmarks.tasks.training import train

FULL = Budget(128, 3, 1_200, 8, 256, 2_048, 20_000, 3, {"spectral": 3e-3, "transformer": 1e-3})
QUICK = Budget(16, 1, 2, 2, 64, 512, 200, 1, dict.fromkeys(KINDS, 1e-3))
# accuracies that spectral models must reach
BARS = {"word order": 0.9, "intents": 0.86}


def measure(given: argparse.Namespace) -> Outcome:
    """Train what has no result, and compare."""
    budget = QUICK if given.quick else FULL
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for task in tasks(given.data, work, budget):
            figures += compare(task, budget, given.results)
    return Outcome("One process, one thread; accuracy on held-out texts, mean of seeds.", figures)


def tasks(data: Path | None, work: Path, budget: Budget) -> Iterator[Task]:
    """The tasks that there is data for."""
    table = work / "order" / "rows.csv"
    table.parent.mkdir()
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("text", "label"), *word_order(budget)])
    yield make_task("word order", table, table.parent, budget, "label")
    if data is not None:
        folder = work / "intents"
        folder.mkdir()
        with data.open(encoding="utf-8", newline="") as file:
            label = next(csv.reader(file))[1]
        yield make_task("intents", data, folder, budget, label)


def compare(task: Task, budget: Budget, results: Path | None) -> list[Figure]:
    """Accuracies of both kinds of models and of the floor, as figures and as lines."""
    found: dict[str, float] = {}
    for kind in KINDS:
        runs = []
        for seed in range(budget.seeds):
            file = None if results is None else results / f"{task.name}-{kind}-{seed}.json"
            if file is not None and file.exists():
                runs.append(json.loads(file.read_text(encoding="utf-8")))
                continue
            runs.append(train(kind, task, budget, seed))
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(runs[-1]), encoding="utf-8")
            print(f"{task.name}, {kind}, seed {seed}: {runs[-1]['accuracy']:.4f}", flush=True)
        found[kind] = sum(run["accuracy"] for run in runs) / len(runs)
    floor = linear_floor(task, budget)
    return [
        Figure(f"{task.name}: spectral", found["spectral"], "accuracy", BARS[task.name]),
        Figure(f"{task.name}: transformer", found["transformer"], "accuracy"),
        Figure(f"{task.name}: TF-IDF and a linear SVM", floor, "accuracy"),
        Figure(
            f"{task.name}: spectral over transformer",
            found["spectral"] / found["transformer"],
            limit=1.0,
        ),
    ]


if __name__ == "__main__":
    parser = benchmark_parser(__doc__)
    parser.add_argument("--data", type=Path, metavar="CSV", help="texts and labels, two columns")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="keep results, and resume")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run_parsed("tasks", __doc__, arguments, lambda: measure(arguments))
