"""Time and size of `resonance report` for 100 runs of 100,000 steps.

python -m benchmarks.run_report
"""

import json
import math
import random
import tempfile
import time
from pathlib import Path

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.reporting.report import report
from pretrain.viewing_commands import ReportCommand

FULL, QUICK = (100, 100_000), (3, 500)
SECONDS_LIMIT, MEGABYTES_LIMIT = 20.0, 20.0
SAMPLED_EVERY = 50


def _write_run(folder: Path, steps: int, number: int) -> None:
    folder.mkdir()
    draw = random.Random(number)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            record = {
                "step": step,
                "tokens": 4096 * step,
                "step_tokens": 4096,
                "loss": 2.0 + 6.0 / math.sqrt(step) + 0.1 * draw.random(),
                "auxiliary_loss": 0.0,
                "grad_norm": draw.random(),
                "learning_rate": 1e-3 * draw.random(),
                "tokens_per_s": 1e5 + 1e4 * draw.random(),
                "tokens_per_s_per_rank": 1e4,
                "guard_events": 0,
            }
            if step % SAMPLED_EVERY == 0:
                parts = ("data", "forward", "backward", "optimizer", "communication")
                record |= {f"seconds/{part}": draw.random() for part in parts}
                record |= {"mfu": 0.4, "memory_bytes": 6e10}
                record |= {f"spectrum_entropy/{layer}": draw.random() for layer in range(8)}
            file.write(json.dumps(record) + "\n")
    text = f"[train]\nsteps = {steps}\n[optim]\nlearning_rate = {1e-4 * (number + 1)}\n"
    (folder / "run.toml").write_text(text, encoding="utf-8")


def measure(quick: bool) -> Outcome:
    """Write runs, report them once."""
    runs, steps = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="resonance-report-") as name:
        folder = Path(name)
        for number in range(runs):
            _write_run(folder / f"run-{number:03d}", steps, number)
        num_bytes = sum(file.stat().st_size for file in folder.rglob("metrics.jsonl"))
        output = folder / "report.html"
        begin = time.perf_counter()
        report(ReportCommand(runs=(folder,), output=output))
        seconds = time.perf_counter() - begin
        megabytes = output.stat().st_size / 1e6
    print(f"{num_bytes / 1e9:.2f} GB of metrics: {seconds:.1f} s, {megabytes:.1f} MB")
    what = f"{runs} runs of {steps:,} steps"
    figures = [
        Figure(f"time of a report of {what}", seconds, "s", SECONDS_LIMIT, at_most=True),
        Figure(f"size of a report of {what}", megabytes, "MB", MEGABYTES_LIMIT, at_most=True),
    ]
    return Outcome(f"{what}, sampled figures in every {SAMPLED_EVERY}th.", figures)


if __name__ == "__main__":
    run_benchmark("run_report", __doc__, measure)
