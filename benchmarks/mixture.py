"""Which mixture of convolution and recall heads learns best at small scale?

    python benchmarks/mixture.py

Trains the main job's model on the standard library with every mixture: equal parameters (within
2%), data order, steps and learning rate; one seed. About 20 minutes on one core. The corpus and
tokenizer are the main job's and are made if they are missing.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pretrain.main_job import RECIPES, stages
from pretrain.run_file import load_run

STEPS = 250
# convolution heads of each layer, of 4; the rest are recall heads
MIXTURES = {
    "convolution heads": (4,),
    "recall heads": (0,),
    "alternating layers": (4, 0),
    "half in every layer": (2,),
    "a quarter convolution": (1,),
}


def train(conv_heads: tuple[int, ...], output: Path) -> list[dict[str, float]]:
    """Train one mixture in a process of its own and return its records."""
    command = [
        *(sys.executable, "-m", "pretrain.cli", "pretrain", str(RECIPES / "stdlib.toml")),
        *("--train.output", str(output), "--train.steps", str(STEPS), "--train.wandb", "disabled"),
        *("--train.micro-batch-size", "8", "--train.validate-every", "0"),
        *("--checkpoint.every", "0", "--model.conv-heads", *map(str, conv_heads)),
    ]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def main() -> None:
    """Print the table."""
    recipe = RECIPES / "stdlib.toml"
    for stage in stages(recipe)[:2]:
        if stage.result is not None and not stage.result.exists():
            subprocess.run([sys.executable, "-m", "pretrain.cli", *stage.arguments], check=True)
    peak = load_run(recipe).optim.learning_rate
    rows = []
    for name, conv_heads in MIXTURES.items():
        with tempfile.TemporaryDirectory() as folder:
            records = train(conv_heads, Path(folder) / "run")
        rows.append((name, records[-1]["valid_loss"]))
        print(f"{name}: held-out loss {rows[-1][1]:.4f}", flush=True)
    print(f"{STEPS} steps, peak learning rate {peak:g}; held-out loss in nats per token")
    print(f"{'mixture':<24}{'loss':>8}")
    for name, loss in rows:
        print(f"{name:<24}{loss:>8.4f}")


if __name__ == "__main__":
    main()
