"""Saves one checkpoint after the other in a forked process, and kills it at a random moment.

    python -m tests.distributed.killed_saver RUN.toml ROUNDS

After every kill, each complete checkpoint must load and hold the values of its step. Prints how
many kills hit an unfinished checkpoint.
"""

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch

from pretrain.checkpoint.catalog import find_newest, list_checkpoints, step_of
from pretrain.checkpoint.load import load_model
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.save import Saver
from pretrain.config import RunConfig
from pretrain.parallel.mesh import build_mesh
from pretrain.run_file import load_run
from pretrain.runtime.ranks import init_ranks
from pretrain.training.engine import build_engine


def value_at(step: int) -> float:
    """What every parameter is at a step."""
    return 1.0 / (1.0 + step)


def save_forever(run: RunConfig, ready: int) -> None:
    """Begin after the newest checkpoint; tell the parent when the first one is being written."""
    ranks = init_ranks()
    mesh = build_mesh(run.parallel, ranks)
    engine = build_engine(run, ranks, mesh)
    saver = Saver(run, None, ranks, Retention(run, print))
    newest = find_newest(run.train.output)
    step = step_of(newest) if newest else 0
    while True:
        step += 1
        with torch.no_grad():
            for parameter in engine.module.parameters():
                parameter.fill_(value_at(step))
        saver.begin(engine, {"step": step})
        if ready:
            os.write(ready, b".")
            ready = 0
        saver.wait()


def check(output: Path) -> int:
    """Load every checkpoint; returns the newest step."""
    newest = 0
    for checkpoint in list_checkpoints(output):
        model, _, _ = load_model(checkpoint)
        newest = step_of(checkpoint)
        for name, parameter in model.named_parameters():
            assert parameter.eq(value_at(newest)).all(), f"{checkpoint}: {name}"
    return newest


def main(run_file: Path, rounds: int) -> None:
    """Kill, check, and go on."""
    import deepspeed  # noqa: F401  # once, not in every child

    warnings.simplefilter("ignore")
    run = load_run(run_file)
    root = run.train.output / "checkpoints"
    delays = random.Random(0)
    newest = unfinished = 0
    for _ in range(rounds):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            save_forever(run, writing)
        os.close(writing)
        started = os.read(reading, 1)
        os.close(reading)
        assert started, "the saver ended by itself"
        time.sleep(delays.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        unfinished += any(root.glob(".step-*"))
        after = check(run.train.output)
        assert after >= newest, f"step {newest} was lost"
        newest = after
    print(f"{unfinished} of {rounds} kills hit an unfinished checkpoint; newest step {newest}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
