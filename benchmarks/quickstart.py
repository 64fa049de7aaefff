"""Held-out loss of the main job (`make pretrain`) compared with n-grams, and its time.

    python -m benchmarks.quickstart

Runs `pretrain.quickstart` in an empty folder: tokenizer, shards, training on two ranks, evaluation,
a sample, export to Hugging Face.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.results import ROOT
from benchmarks.harness.thresholds import Figure, Outcome

RECIPE = ROOT / "pretrain" / "recipes" / "stdlib.toml"
# the quick form's training: keys of the recipe and their values
QUICK = {"warmup_steps": 1, "steps": 4, "validate_every": 2, "every": 2}


def quick_recipe() -> str:
    """The recipe with a few steps."""
    lines = RECIPE.read_text(encoding="utf-8").splitlines()
    keys = [line.split(" = ")[0] for line in lines]
    missing = sorted(set(QUICK) - set(keys))
    if missing:
        sys.exit(f"{RECIPE}: expected a key {missing[0]}, found none")
    pairs = zip(keys, lines, strict=True)
    return "\n".join(f"{key} = {QUICK[key]}" if key in QUICK else line for key, line in pairs)


def run_main_job(folder: Path, recipe: Path) -> tuple[dict[str, Any], float]:
    """The evaluation of the main job, run in a folder, and its seconds."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "pretrain.quickstart", "--recipe", str(recipe)]
    started_s = time.perf_counter()
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, check=True)
    seconds = time.perf_counter() - started_s
    evaluation = folder / "runs" / "stdlib" / "evaluation.json"
    return json.loads(evaluation.read_text(encoding="utf-8")), seconds


def measure(quick: bool) -> Outcome:
    """Run the main job and compare its loss; the job prints the table."""
    with tempfile.TemporaryDirectory() as name:
        recipe = RECIPE
        if quick:
            recipe = Path(name) / "quick.toml"
            recipe.write_text(quick_recipe(), encoding="utf-8")
        evaluation, seconds = run_main_job(Path(name), recipe)
    losses = evaluation["losses"]
    bits = losses["model"] * evaluation["num_tokens"] / evaluation["num_bytes"] / math.log(2.0)
    figures = [Figure(f"held-out loss of {name}", loss, "nats per token")
               for name, loss in losses.items()]  # fmt: skip
    figures += [
        Figure("held-out loss of model, bits per byte of text", bits, "bits per byte"),
        Figure("loss of the trigram model minus the model's", losses["trigram"] - losses["model"],
               "nats per token", limit=0.0),
        Figure("time of the whole job", seconds, "s"),
    ]  # fmt: skip
    return Outcome("The source of the Python standard library, two ranks.", figures)


if __name__ == "__main__":
    run_benchmark("quickstart", __doc__, measure)
