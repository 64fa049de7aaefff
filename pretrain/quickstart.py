"""The main job: from text to a trained, evaluated and exported model, with the user's own commands.

`make pretrain` runs it. Every stage is a `resonance` command that is printed before it runs. A
stage whose result exists is skipped, and interrupted training resumes.
"""

import argparse
import json
import math
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from launch.torchrun import REQUEUE_STATUS
from pretrain.checkpoint.catalog import list_checkpoints
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.run_file import load_run

RECIPES = Path(__file__).resolve().parent / "recipes"
PROMPT = "def "


class Stage(NamedTuple):
    """A command of the job.

    Attributes:
        title: Description of the stage.
        result: File or folder that it makes; if it exists, the stage is skipped. None: always run.
        arguments: Arguments of `resonance`.
    """

    title: str
    result: Path | None
    arguments: list[str]


def stages(recipe: Path) -> list[Stage]:
    """All stages of the job that a run file describes."""
    run = load_run(recipe)
    output = run.train.output
    exported = output / f"huggingface-{run.train.steps}"
    data = Path(run.data.valid).parent
    resume = ["--resume"] if list_checkpoints(output) else []
    return [
        *_tokenizer_stage(run),
        Stage(
            "Clean, tokenize and write shards",
            data / "report.json",
            ["data", "build", "--tokenizer", run.data.tokenizer, "--output", str(data)],
        ),
        Stage("Pretrain", None, ["launch", "local", str(recipe), *resume]),
        Stage("Evaluate on the held-out split", None, ["evaluate", str(output)]),
        Stage("Generate a sample", None, ["generate", str(output), "--prompt", PROMPT]),
        Stage(
            "Export to Hugging Face, load back, compare",
            exported,
            ["checkpoint", "export", str(output), str(exported)],
        ),
    ]


def _tokenizer_stage(run: RunConfig) -> list[Stage]:
    if run.data.tokenizer == "byte":
        return []
    size = str(run.model.vocab_size)
    arguments = ["tokenizer", "train", "--output", run.data.tokenizer, "--vocab-size", size]
    return [Stage("Train a tokenizer", Path(run.data.tokenizer), arguments)]


def main() -> None:
    """Run every stage; exit with the status of the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="stdlib", help="a run file, or a name in recipes/")
    name = parser.parse_args().recipe
    recipe = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if recipe.is_relative_to(Path.cwd()):
        recipe = recipe.relative_to(Path.cwd())
    try:
        run = load_run(recipe)
        plan = stages(recipe)
    except (RunError, OSError) as error:
        sys.exit(f"main job: {error}")
    seconds = []
    for number, stage in enumerate(plan, start=1):
        print(f"\n[{number}/{len(plan)}] {stage.title}", flush=True)
        if stage.result is not None and stage.result.exists():
            print(f"    kept: {stage.result}", flush=True)
            continue
        print(f"    resonance {shlex.join(stage.arguments)}", flush=True)
        begin = time.monotonic()
        status = _run(stage)
        if status == REQUEUE_STATUS:
            sys.exit(f"main job: stage {number} ({stage.title}) was stopped; make pretrain resumes")
        if status != 0:
            sys.exit(f"main job: stage {number} ({stage.title}) failed with status {status}")
        seconds.append((stage.title, time.monotonic() - begin))
    print(_summary(run.train.output, seconds))


def _run(stage: Stage) -> int:
    """Run a stage to its end and return its status; Ctrl-C is for the stage to answer."""
    process = subprocess.Popen([sys.executable, "-m", "pretrain.cli", *stage.arguments])
    # a handler, since a process that ignores the signal would pass that on to what it starts
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _summary(output: Path, seconds: list[tuple[str, float]]) -> str:
    evaluation = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    lines = ["", "Held-out loss"]
    for name, loss in evaluation["losses"].items():
        bits = loss * evaluation["num_tokens"] / evaluation["num_bytes"] / math.log(2.0)
        lines.append(f"    {name:<10}{loss:8.4f} nats per token {bits:8.4f} bits per byte")
    losses = evaluation["losses"]
    beaten = [name for name, loss in losses.items() if losses["model"] < loss]
    lines.append(f"    below: {', '.join(beaten) or 'none of them'}")
    lines += ["", "Time"]
    lines += [f"    {title:<46}{elapsed:8.1f} s" for title, elapsed in seconds]
    lines += ["", "Written"]
    exported = sorted(path.name for path in output.glob("huggingface-*"))
    for name in ("run.toml", "metrics.jsonl", "loss.png", "evaluation.json", *exported):
        lines.append(f"    {output / name}")
    lines.append(f"    {list_checkpoints(output)[-1]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
