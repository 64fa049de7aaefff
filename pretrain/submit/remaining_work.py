"""The remaining work of a run: its steps, their time, the bytes of its checkpoints."""

import math
from collections.abc import Sequence

from launch.preflight import Plan
from pretrain.checkpoint.catalog import list_checkpoints, step_of
from pretrain.config import RunConfig
from pretrain.monitoring.jsonl import read_metrics

# number of the newest steps whose median time is used
TIMED_STEPS = 50
FLOAT32_BYTES = 4


def longest_plan(runs: Sequence[RunConfig], jobs: int) -> Plan:
    """The remaining work of the slowest run, split over `jobs` chained jobs.

    Args:
        runs: Tasks of a sweep, which run in parallel.
        jobs: Jobs in the chain.
    """
    plans = [Plan(run.train.steps - _steps_done(run), _seconds_per_step(run), jobs) for run in runs]
    return max(plans, key=lambda plan: plan.steps * (plan.seconds_per_step or 0.0))


def checkpoint_bytes(run: RunConfig) -> int | None:
    """Bytes that checkpoints to come will take; None where PyTorch is not installed."""
    try:
        import torch

        from pretrain.parallel.matrices import state_tensors_per_number
        from spectral.models import model_class
    except ImportError:
        return None
    with torch.device("meta"):
        model = model_class(run.model)(run.model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    config = run.checkpoint
    steps = map(step_of, list_checkpoints(run.train.output))
    temporary = sum(not config.keep_every or step % config.keep_every != 0 for step in steps)
    # one more than is kept: the oldest is deleted when the newest is complete
    passing = max(1, config.keep_last + 1 - temporary)
    # the parameter and its optimizer state
    numbers = round(parameters * (1 + state_tensors_per_number(run)))
    return (passing + _staying(run)) * numbers * FLOAT32_BYTES


def _staying(run: RunConfig) -> int:
    """Checkpoints to come whose step is a multiple of `keep_every`."""
    config = run.checkpoint
    if not config.keep_every or not config.every:
        return 0
    interval = math.lcm(config.keep_every, config.every)
    return run.train.steps // interval - _steps_done(run) // interval


def _steps_done(run: RunConfig) -> int:
    """Steps of the newest checkpoint, at most the steps of the run."""
    checkpoints = list_checkpoints(run.train.output)
    return min(step_of(checkpoints[-1]), run.train.steps) if checkpoints else 0


def _seconds_per_step(run: RunConfig) -> float | None:
    """Median of the newest steps recorded in the run's directory; None if there are none."""
    seconds = [
        record["step_tokens"] / record["tokens_per_s"]
        for record in read_metrics(run.train.output / "metrics.jsonl")
        if record.get("tokens_per_s", 0.0) > 0.0 and "step_tokens" in record
    ]
    last = sorted(seconds[-TIMED_STEPS:])
    return last[len(last) // 2] if last else None
