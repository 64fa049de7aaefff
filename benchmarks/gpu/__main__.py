"""Speed and memory on one GPU: ops, layers, training steps.

    python -m benchmarks.gpu [--table FILE]

bfloat16, batch 1. Every op of a training pass is timed at the sizes at which a layer calls it, and
compared with the larger of its bytes over the device's bandwidth and its operations over the rate
of a large matrix product, both measured in the same run. Layers are timed with their projections,
against one of attention by torch's fused kernels. Training steps are those of `resonance pretrain`
on one rank, each run in a fresh process. Without a GPU it ends with status 77; the quick form runs
on the CPU.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gpu.device import Device, Rates
from benchmarks.gpu.layers import attention_pass, every_op_pass, mixer_pass
from benchmarks.gpu.recorded import counted, recorded_calls
from benchmarks.gpu.table import write_table
from benchmarks.gpu.training import measure_steps
from benchmarks.harness.command import NO_DEVICE_STATUS, benchmark_parser, run_parsed
from benchmarks.harness.processes import in_fresh_process
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.config import RunConfig
from pretrain.planning.devices import load_devices
from pretrain.planning.figures import figures as plan_of
from pretrain.planning.plan import machines_of
from spectral.config import ModelConfig
from spectral.layer_pattern import layer_period
from spectral.presets import PRESETS


class Sizes(NamedTuple):
    """Models and lengths that are measured.

    Attributes:
        models: Models of training steps by name; the first one's layers are timed.
        ops: Tokens at which ops are timed.
        layers: Tokens at which layers are timed.
        steps: Tokens of a training step.
        recompute_from: Tokens of a step from which blocks are recomputed.
        matrix: Rows of the matrices by which the device's rates are measured.
        seconds: Seconds of timing per figure.
        num_steps: Optimizer steps of a run.
    """

    models: dict[str, ModelConfig]
    ops: int
    layers: tuple[int, ...]
    steps: tuple[int, ...]
    recompute_from: int
    matrix: int
    seconds: float
    num_steps: int


LENGTHS = (2_048, 8_192, 16_384, 65_536, 204_800)
FULL = Sizes(
    {name: PRESETS[name].model for name in ("tiny", "small")},
    *(16_384, LENGTHS, (8_192, 65_536, 204_800), 65_536, 8_192, 0.2, 5),
)
SMALL = ModelConfig(vocab_size=128, dim=32, num_layers=2, num_heads=2, ffn_dim=48)
QUICK = Sizes({"small": SMALL}, 128, (64, 128), (128, 256), 256, 64, 0.0, 2)


def time_ops(sizes: Sizes, device: Device, rates: Rates) -> list[Figure]:
    """Time every op, forward and backward, and print the table."""
    print(f"{'op':<30}{'us':>10}{'bound us':>10}{'over bound':>12}")
    config = next(iter(sizes.models.values()))
    figures = []
    run = every_op_pass(config, sizes.ops, device.torch, device.half)
    for name, call in recorded_calls(run).items():
        work, measured_s = counted(call), device.seconds(call, sizes.seconds)
        bound_s = rates.bound_s(work.flops, work.num_bytes)
        print(f"{name:<30}{1e6 * measured_s:>10.1f}{1e6 * bound_s:>10.1f}"
              f"{measured_s / bound_s:>12.2f}")  # fmt: skip
        title = f"{name}, {sizes.ops:,} tokens: time over its roofline"
        figures.append(Figure(title, measured_s / bound_s))
    return figures


def time_layers(sizes: Sizes, device: Device, rates: Rates) -> list[Figure]:
    """Time a mixing layer (mean over the kinds) and one of attention, and print the table."""
    print(f"{'tokens':>8}{'layer ms':>10}{'over bound':>12}{'attention over it':>19}")
    config = next(iter(sizes.models.values()))
    figures = []
    for T in sizes.layers:
        layer_s = bound_s = 0.0
        kinds = range(layer_period(config))
        for layer in kinds:
            run = mixer_pass(config, layer, T, device.torch, device.half)
            work = counted(run)
            layer_s += device.seconds(run, sizes.seconds) / len(kinds)
            bound_s += rates.bound_s(work.flops, work.num_bytes) / len(kinds)
        attention = attention_pass(config, T, device.torch, device.half)
        ratio = device.seconds(attention, sizes.seconds) / layer_s
        print(f"{T:>8}{1e3 * layer_s:>10.2f}{layer_s / bound_s:>12.2f}{ratio:>19.2f}")
        figures += [
            Figure(f"time of a mixing layer, {T:,} tokens", 1e3 * layer_s, "ms"),
            Figure(f"mixing layer, {T:,} tokens: time over its roofline", layer_s / bound_s),
            Figure(f"time of an attention layer over a mixing layer's, {T:,} tokens", ratio),
        ]
    return figures


def run_of(
    model: ModelConfig, T: int, sizes: Sizes, device: Device, *, compiled: bool
) -> RunConfig:
    """A run of one window of T tokens per step."""
    return RunConfig.model_validate(
        {
            "model": model.model_dump(),
            "data": {"sequence_length": T},
            "train": {
                "global_batch_size": 1,
                "micro_batch_size": 1,
                "precision": "bf16" if device.is_gpu else "float32",
                "activation_checkpointing": "full" if sizes.recompute_from <= T else "none",
                "compile": compiled,
            },
        }
    )


def time_steps(sizes: Sizes, device: Device, rates: Rates) -> list[Figure]:
    """Train each model at each length, compiled or not, and print the table."""
    print(f"{'model':>8}{'tokens':>9}{'compiled':>10}{'tokens/s':>11}{'MFU':>7}{'peak GiB':>10}")
    figures = []
    for name, model in sizes.models.items():
        for T in sizes.steps:
            run = run_of(model, T, sizes, device, compiled=False)
            # memory and operations are the same on any GPU
            plan = plan_of(
                run, 1, machines_of(load_devices(), "h200", "400", 1), kernels=device.is_gpu
            )
            for compiled in (False, True):
                run = run_of(model, T, sizes, device, compiled=compiled)
                steps = in_fresh_process(measure_steps, run, device.torch.type, sizes.num_steps)
                share = plan.model_flops / steps.seconds / rates.flops
                print(f"{name:>8}{T:>9}{compiled!s:>10}{T / steps.seconds:>11,.0f}{share:>7.2f}"
                      f"{steps.peak_bytes / 2**30:>10.2f}")  # fmt: skip
                label = f"{name}, {T:,} tokens{', compiled' if compiled else ''}"
                figures += [
                    Figure(f"{label}: speed", T / steps.seconds, "tokens/s"),
                    Figure(f"{label}: FLOP/s of the model over a matrix product's", share),
                    Figure(f"{label}: peak memory", steps.peak_bytes / 2**30, "GiB"),
                    Figure(f"{label}: peak memory over the planner's figure",
                           steps.peak_bytes / plan.bytes),
                ]  # fmt: skip
    return figures


def measure(device: Device, sizes: Sizes) -> Outcome:
    """Measure everything and print the tables."""
    # plans need a process without a group, and leave none: steps run in processes of their own
    torch.manual_seed(0)
    rates = device.rates(sizes.matrix, sizes.seconds)
    print(f"{device.name}: {rates.flops / 1e12:.2f} TFLOP/s, {rates.bandwidth / 1e12:.3f} TB/s")
    figures = [
        Figure("rate of a matrix product", rates.flops / 1e12, "TFLOP/s"),
        Figure("rate of a copy", rates.bandwidth / 1e12, "TB/s"),
        *time_ops(sizes, device, rates),
        *time_layers(sizes, device, rates),
        *time_steps(sizes, device, rates),
    ]
    return Outcome(f"One {device.name}, {device.half}, batch 1, forward and backward.", figures)


def main() -> None:
    """Parse the command line and measure."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write a Markdown table")
    arguments = parser.parse_args()
    device = Device("cpu" if arguments.quick else "cuda")
    if device.is_gpu and not torch.cuda.is_available():
        print("benchmarks.gpu: no GPU here (torch.cuda.is_available() is false)", file=sys.stderr)
        sys.exit(NO_DEVICE_STATUS)

    def outcome() -> Outcome:
        measured = measure(device, QUICK if arguments.quick else FULL)
        if arguments.table:
            write_table(arguments.table, measured)
        return measured

    run_parsed("gpu", __doc__, arguments, outcome)


if __name__ == "__main__":
    main()
