"""Training with 200K tokens of context on two sequence ranks.

    python -m benchmarks.long_context [--encoder]

A model of about 10M parameters on bytes of a book (the standard library's source if there is none),
one thread per rank, float32, every block recomputed: three optimizer steps at 204,800 tokens on two
ranks, one on one rank for its memory, and steps at 8,192 tokens to compare the speed. What is
recalled from so far is in `benchmarks.long_recall`. With --encoder the model is bidirectional, a
third as deep, and makes one step at each length. Needs two idle cores.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.harness.command import benchmark_parser, run_parsed
from benchmarks.harness.layout_runner import Measurement, measure_layout
from benchmarks.harness.texts import long_text
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.config import RunConfig


class Sizes(NamedTuple):
    """Dimensions of all measurements.

    Attributes:
        long: Tokens of long sequences.
        short: Tokens of the sequences whose speed is compared.
        num_layers: Layers of the model that is trained on text.
    """

    long: int
    short: int
    num_layers: int


FULL = Sizes(204_800, 8_192, 12)
QUICK = Sizes(512, 128, 2)


def run_config(sizes: Sizes, length: int, sequence: int, *, causal: bool = True) -> RunConfig:
    """A run of one window per step."""
    return RunConfig.model_validate(
        {
            "objective": {"kind": "next_token" if causal else "masked_token"},
            "model": {
                "vocab_size": 256,
                "dim": 256,
                "num_layers": sizes.num_layers,
                "num_heads": 4,
                "ffn_dim": 688,
                "causal": causal,
            },
            "data": {"sequence_length": length},
            "optim": {"learning_rate": 1e-3, "warmup_steps": 1},
            "train": {
                "global_batch_size": 1,
                "micro_batch_size": 1,
                "activation_checkpointing": "full",
            },
            "parallel": {"sequence": sequence},
        }
    )


def train_lengths(sizes: Sizes, tokens: Tensor) -> list[Figure]:
    """Measure speed and memory at several lengths and print the table."""
    long, half, short = sizes.long, sizes.long // 2, sizes.short
    cases = [(long, 2, 3), (half, 2, 2), (short, 2, 6), (long, 1, 1)]
    results: dict[tuple[int, int], Measurement] = {}
    print(f"{'tokens':>8} {'ranks':>5} {'tokens/s':>9} {'GiB/rank':>8}  losses")
    for length, ranks, steps in cases:
        result = measure_layout(run_config(sizes, length, ranks), ranks, tokens, steps)
        results[length, ranks] = result
        losses = ", ".join(f"{loss:.3f}" for loss in result.losses)
        gib = result.memory[-1] / 2**30
        print(f"{length:>8} {ranks:>5} {result.tokens_per_s:>9,.0f} {gib:>8.2f}  {losses}")
    # of the first step, which all cases have
    peak = {case: result.memory[0] for case, result in results.items()}
    first, *_, last = results[long, 2].losses
    return [
        *(Figure(f"tokens/s at {length:,} tokens on {ranks} rank{'s' * (ranks > 1)}",
                 result.tokens_per_s, "tokens/s") for (length, ranks), result in results.items()),
        *(Figure(f"peak memory of a rank at {length:,} tokens on {ranks} rank{'s' * (ranks > 1)}",
                 num_bytes / 2**30, "GiB") for (length, ranks), num_bytes in peak.items()),
        Figure(f"tokens/s at {long:,} tokens over those at {short:,}",
               results[long, 2].tokens_per_s / results[short, 2].tokens_per_s, limit=0.85),
        Figure(f"memory at {long:,} tokens over that at {half:,}",
               peak[long, 2] / peak[half, 2], limit=2.1, at_most=True),
        Figure("memory of a rank of two over one rank's",
               peak[long, 2] / peak[long, 1], limit=0.55, at_most=True),
        Figure("loss of the first step over the third's", first / last, limit=1.0),
    ]  # fmt: skip


def train_encoder(sizes: Sizes, tokens: Tensor) -> list[Figure]:
    """Measure steps of an encoder on two ranks at three lengths and print the table.

    The labels are next tokens, which such a model sees: only the cost of a step matters here.
    """
    sizes = sizes._replace(num_layers=max(2, sizes.num_layers // 3))
    results = {}
    print(f"{'tokens':>8} {'tokens/s':>9} {'GiB/rank':>8}")
    for length, steps in ((sizes.long, 1), (sizes.long // 2, 1), (sizes.short, 3)):
        run = run_config(sizes, length, 2, causal=False)
        result = results[length] = measure_layout(run, 2, tokens, steps)
        gib = result.memory[0] / 2**30
        print(f"{length:>8} {result.tokens_per_s:>9,.0f} {gib:>8.2f}")
    long, half, short = results.values()
    return [
        *(Figure(f"tokens/s of an encoder at {length:,} tokens on 2 ranks", result.tokens_per_s,
                 "tokens/s") for length, result in results.items()),
        *(Figure(f"peak memory of a rank of an encoder at {length:,} tokens",
                 result.memory[0] / 2**30, "GiB") for length, result in results.items()),
        Figure(f"an encoder's tokens/s at {sizes.long:,} tokens over those at {sizes.short:,}",
               long.tokens_per_s / short.tokens_per_s, limit=0.85),
        Figure(f"an encoder's memory at {sizes.long:,} tokens over that at {sizes.long // 2:,}",
               long.memory[0] / half.memory[0], limit=2.1, at_most=True),
    ]  # fmt: skip


def measure(quick: bool, encoder: bool) -> Outcome:
    """Train at several lengths."""
    sizes = QUICK if quick else FULL
    torch.set_num_threads(1)
    name, data = long_text()
    # windows of three steps
    text = bytearray(data[: 3 * sizes.long + 1])
    print(name)
    train = train_encoder if encoder else train_lengths
    figures = train(sizes, torch.frombuffer(text, dtype=torch.uint8).long())
    return Outcome(f"Bytes of {name}; one thread per rank.", figures)


if __name__ == "__main__":
    parser = benchmark_parser(__doc__)
    parser.add_argument("--encoder", action="store_true", help="a bidirectional model")
    given = parser.parse_args()
    run_parsed("long_context", __doc__, given, lambda: measure(given.quick, given.encoder))
