"""Predicted time of a step over the measured one, on this processor, by layout and model.

    python -m benchmarks.planner

A short run finds the processor's rates: matrix products, transforms, streams, bandwidth and latency
between two processes, and what an operation costs beside its arithmetic, from steps of a tiny model
on one rank. They become a file of devices, for which each run is planned as `resonance plan
--devices` plans it, and the same run is measured. One thread per rank, float32. Needs two idle
cores.
"""

import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
import torch

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.layout_runner import measure_layout
from benchmarks.harness.processor import measured_device, measured_link
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.config import RunConfig
from pretrain.planning.devices import Device, Link, load_devices
from pretrain.planning.figures import Figures, figures, preload
from pretrain.planning.plan import machines_of
from pretrain.planning.step_time import LAUNCHES, Machines

LIMIT = 0.3
NAME = "processor"
AXES = ("data", "tensor", "sequence", "pipeline")


class Sizes(NamedTuple):
    """Model, tokens of a window, measured steps, and rounds of the processor's rates."""

    model: dict[str, Any]
    length: int
    steps: int
    rounds: int


MODEL = {"vocab_size": 2_048, "dim": 256, "num_layers": 4, "num_heads": 4, "ffn_dim": 688}
SMALL = {"vocab_size": 64, "dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 32}
FULL = Sizes(MODEL | {"fft": {"chunk": 256}}, length=2_048, steps=4, rounds=30)
QUICK = Sizes(SMALL | {"fft": {"chunk": 32}}, length=128, steps=2, rounds=2)
FFT = {"mixers": ("fft",)}
RECOMPUTED = {"activation_checkpointing": "full"}


class Case(NamedTuple):
    """A run: layout, and keys of the model and of the training that it sets."""

    parallel: dict[str, int]
    model: dict[str, Any]
    train: dict[str, Any]

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return math.prod(self.parallel.get(axis, 1) for axis in AXES)

    def run(self, sizes: Sizes) -> RunConfig:
        """The run, with two micro-batches of one window for each group of data ranks."""
        parallel = {"zero_stage": 1} | self.parallel
        batch = 2 * parallel.get("data", 1)
        return RunConfig.model_validate(
            {
                "model": sizes.model | self.model,
                "data": {"sequence_length": sizes.length},
                "train": {"global_batch_size": batch, "micro_batch_size": 1} | self.train,
                "parallel": parallel,
            }
        )


CASES = {
    "1 rank": Case({}, {}, {}),
    "1 rank, recomputed": Case({}, {}, RECOMPUTED),
    "1 rank, fft": Case({}, FFT, {}),
    "2 data ranks, ZeRO 1": Case({"data": 2, "zero_stage": 1}, {}, {}),
    "2 data ranks, ZeRO 3": Case({"data": 2, "zero_stage": 3}, {}, {}),
    "2 data ranks, ZeRO 3, recomputed": Case({"data": 2, "zero_stage": 3}, {}, RECOMPUTED),
    "2 tensor ranks": Case({"tensor": 2}, {}, {}),
    "2 sequence ranks": Case({"sequence": 2}, {}, {}),
    "2 sequence ranks, fft": Case({"sequence": 2}, FFT, {}),
    "2 stages": Case({"pipeline": 2}, {}, {"global_batch_size": 4}),
}


def step_seconds(run: RunConfig, ranks: int, steps: int) -> float:
    """Measured seconds of a step; the first, which makes states, does not count."""
    num_tokens = steps * run.train.global_batch_size * run.data.sequence_length + 1
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(run.model.vocab_size, (num_tokens,), generator=generator)
    return min(measure_layout(run, ranks, tokens, steps).seconds[1:])


def overhead_us(device: Device, link: Link, steps: int) -> float:
    """Time of an operation beside its arithmetic, in steps of a tiny model on one rank."""
    run = CASES["1 rank"].run(QUICK)
    counting = device.model_copy(update={"overhead_us": 1.0})
    plan = figures(run, 1, Machines(counting, link, link, device.per_node), kernels=False)
    # a microsecond for each operation
    operations = 1e6 * plan.seconds[LAUNCHES]
    arithmetic_s = plan.step_s - plan.seconds[LAUNCHES]
    return 1e6 * max(step_seconds(run, 1, steps) - arithmetic_s, 0.0) / operations


def this_machine(sizes: Sizes) -> Machines:
    """This processor as a device, from a file as users write them."""
    device, link = measured_device(sizes.rounds), measured_link(sizes.rounds)
    overhead = overhead_us(device, link, 5 * sizes.steps)
    device = device.model_copy(update={"overhead_us": overhead})
    table = {
        "gpus": {NAME: device.model_dump()},
        "links": {device.link: link.model_dump()},
    }
    print(
        f"{device.name}: {1e3 * device.tflops['float32']:.0f} GFLOP/s in products, "
        f"{device.efficiency:.2f} of that in projections, "
        f"{1e3 * device.vector_tflops:.1f} in transforms; {device.memory_gb_s:.1f} GB/s, "
        f"{device.memory_efficiency:.2f} of that in activations; {device.overhead_us:.1f} us for "
        f"an operation; loopback {link.gb_s:.2f} GB/s, {link.latency_us:.0f} us",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "devices.toml"
        file.write_text(tomli_w.dumps(table), encoding="utf-8")
        return machines_of(load_devices(file), NAME, device.link, 0)


def print_row(name: str, plan: Figures, measured_s: float) -> None:
    """Print a layout's times, and the largest parts of the predicted one."""
    parts = sorted(plan.seconds.items(), key=lambda part: -part[1])[:4]
    shares = ", ".join(f"{part} {100 * time / plan.step_s:.0f}%" for part, time in parts)
    ratio = plan.step_s / measured_s
    print(f"{name:38} {plan.step_s:9.3f} {measured_s:9.3f} {ratio:6.2f}  {shares}", flush=True)


def measure(quick: bool) -> Outcome:
    """Find the processor's rates, then plan and measure every run."""
    sizes = QUICK if quick else FULL
    preload(CASES["2 tensor ranks"].run(sizes))
    machines = this_machine(sizes)
    print(
        f"{'seconds of a step':38} {'predicted':>9} {'measured':>9} {'ratio':>6}  predicted parts"
    )
    results = []
    for name, case in CASES.items():
        run = case.run(sizes)
        plan = figures(run, case.ranks, machines, kernels=False)
        measured_s = step_seconds(run, case.ranks, sizes.steps)
        print_row(name, plan, measured_s)
        results.append(
            Figure(f"predicted over measured time of a step, {name}", plan.step_s / measured_s)
        )
    deviation = max(abs(figure.value - 1) for figure in results)
    bar = Figure(
        "largest deviation of a predicted time from the measured one",
        deviation,
        limit=LIMIT,
        at_most=True,
    )
    return Outcome(
        "A model of 4 layers of width 256, one thread per rank, float32.", [*results, bar]
    )


if __name__ == "__main__":
    run_benchmark("planner", __doc__, measure)
