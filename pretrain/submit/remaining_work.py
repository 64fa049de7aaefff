"""How much a run still has to do: steps, their time, the bytes of its checkpoints."""

import json
import math
from collections.abc import Sequence

from launch.preflight import Plan
from pretrain.checkpoint.catalog import list_checkpoints, step_of
from pretrain.config import RunConfig

# float32: the parameter and AdamW's two moments.
BYTES_PER_PARAMETER = 12
TIMED_STEPS = 50


def longest_plan(runs: Sequence[RunConfig], jobs: int) -> Plan:
    """Of the run that will take longest, in a chain of so many jobs; the tasks run side by side."""
    plans = [Plan(run.train.steps - _steps_done(run), _seconds_per_step(run), jobs) for run in runs]
    return max(plans, key=lambda plan: plan.steps * (plan.seconds_per_step or 0.0))


def checkpoint_bytes(run: RunConfig) -> int | None:
    """Bytes that checkpoints will take beyond those that are there; None without PyTorch."""
    try:
        import torch

        from spectral.lm import SpectralLM
    except ImportError:
        return None
    with torch.device("meta"):
        model = SpectralLM(run.model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    config = run.checkpoint
    steps = map(step_of, list_checkpoints(run.train.output))
    there = sum(not config.keep_every or step % config.keep_every != 0 for step in steps)
    # one more than is kept: the oldest goes when the newest is complete
    passing = max(1, config.keep_last + 1 - there)
    return (passing + _staying(run)) * parameters * BYTES_PER_PARAMETER


def _staying(run: RunConfig) -> int:
    """Checkpoints to come whose step is a multiple of `keep_every`."""
    config = run.checkpoint
    if not config.keep_every or not config.every:
        return 0
    apart = math.lcm(config.keep_every, config.every)
    return run.train.steps // apart - _steps_done(run) // apart


def _steps_done(run: RunConfig) -> int:
    """Never more than the run has."""
    checkpoints = list_checkpoints(run.train.output)
    return min(step_of(checkpoints[-1]), run.train.steps) if checkpoints else 0


def _seconds_per_step(run: RunConfig) -> float | None:
    """The median of the last steps that this run's directory has a record of."""
    file = run.train.output / "metrics.jsonl"
    if not file.exists():
        return None
    seconds = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            # a line that a crash has cut short
            continue
        if record.get("tokens_per_s"):
            seconds.append(record["step_tokens"] / record["tokens_per_s"])
    last = sorted(seconds[-TIMED_STEPS:])
    return last[len(last) // 2] if last else None
