"""Time of a step with Muon as a share of one with AdamW.

    python -m benchmarks.optimizer_step

A model of 6.2M parameters on one rank; a step has 64 windows of 512 tokens, in micro-batches of 4.
"""

import time

import torch

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.config import RunConfig
from pretrain.parallel.matrices import matrix_blocks
from pretrain.parallel.mesh import Axis
from pretrain.parallel.placement import Placement
from pretrain.training.matrix_exchange import Held, MatrixExchange
from pretrain.training.muon import MatrixMomentum
from pretrain.training.optimizer import build_optimizer
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

FULL = {"vocab_size": 4096, "dim": 256, "num_layers": 6, "num_heads": 8, "ffn_dim": 688}
QUICK = {"vocab_size": 512, "dim": 32, "num_layers": 1, "num_heads": 4, "ffn_dim": 32}
STEP_WINDOWS, PASS_WINDOWS, LENGTH, ROUNDS = 64, 4, 512, 5
STEP_LIMIT = 1.05


def measure(quick: bool) -> Outcome:
    """Time passes and optimizers in turn; the fastest of the rounds counts."""
    config = ModelConfig.model_validate(QUICK if quick else FULL)
    model = SpectralLM(config)
    optimizers = []
    for name in ("adamw", "muon"):
        run = RunConfig.model_validate({"model": config.model_dump(), "optim": {"name": name}})
        optimizer = build_optimizer(model, run)
        if isinstance(optimizer, MatrixMomentum):
            held = [
                Held(Placement(key, tuple(value.shape)), 0, value.numel(), value, 0)
                for key, value in model.named_parameters()
            ]
            blocks, alone = matrix_blocks(config), Axis(1, 0, None)
            optimizer.bind(MatrixExchange(held, blocks, alone, torch.device("cpu")))
        optimizers.append(optimizer)
    tokens = torch.randint(config.vocab_size, (PASS_WINDOWS, 64 if quick else LENGTH))
    fastest = [float("inf")] * 3
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        model(tokens, None, tokens).nll.backward()
        fastest[0] = min(fastest[0], time.perf_counter() - begin)
        for number, optimizer in enumerate(optimizers, start=1):
            begin = time.perf_counter()
            optimizer.step()
            fastest[number] = min(fastest[number], time.perf_counter() - begin)
        model.zero_grad()
    passes, adamw, muon = fastest[0] * STEP_WINDOWS / PASS_WINDOWS, *fastest[1:]
    print(f"passes {passes:.2f} s, AdamW {adamw:.3f} s, Muon {muon:.3f} s", flush=True)
    name = "step with Muon as a share of one with AdamW, 6M parameters, 32,768 tokens"
    ratio = (passes + muon) / (passes + adamw)
    figures = [Figure(name, ratio, limit=STEP_LIMIT, at_most=True)]
    return Outcome("6.2M parameters, float32, one rank with one thread.", figures)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_benchmark("optimizer_step", __doc__, measure)
