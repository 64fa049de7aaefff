"""Training with 200K tokens of context on two sequence ranks.

    python -m benchmarks.long_context

A model of about 10M parameters on bytes of a book (the standard library's source if there is none),
one thread per rank, float32, every block recomputed: three optimizer steps at 204,800 tokens on two
ranks, one on one rank for its memory, and steps at 8,192 tokens to compare the speed. Then a small
model learns to recall a needle at shorter distances and is tested at more than 100,000 tokens.
Needs two idle cores.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.layout_runner import Measurement, measure_layout
from benchmarks.harness.texts import long_text
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.config import RunConfig
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

# needle: a mark, then a value of 16 kinds, between 4 kinds of other tokens
NUM_VALUES, NUM_FILLERS, QUERY = 16, 4, 20
WARMUP_STEPS, LAST_RATE_SHARE = 60, 0.1


class Stage(NamedTuple):
    """Training at one length of the needle's curriculum."""

    tokens: int
    rows: int
    steps: int
    rate: float


class Sizes(NamedTuple):
    """Dimensions of all measurements.

    Attributes:
        long: Tokens of long sequences.
        short: Tokens of the sequences whose speed is compared.
        num_layers: Layers of the model that is trained on text.
        curriculum: Stages of training for the needle.
        distances: Distances in tokens at which the needle is tested; the last one has a bar.
        tests: Needles per distance.
    """

    long: int
    short: int
    num_layers: int
    curriculum: tuple[Stage, ...]
    distances: tuple[int, ...]
    tests: int


# Longer sequences come once the model has learned the task. What it writes into its state for each
# of 100,000 fillers must be close to nothing, which only long sequences teach it.
CURRICULUM = (
    Stage(64, 32, 450, 5e-3),
    Stage(256, 8, 200, 4e-3),
    Stage(1_024, 4, 150, 3e-3),
    Stage(4_096, 4, 100, 2e-3),
    Stage(16_384, 2, 80, 1e-3),
    Stage(65_536, 1, 200, 1e-3),
)
FULL = Sizes(204_800, 8_192, 12, CURRICULUM, (8_192, 65_536, 131_072), 16)
QUICK = Sizes(512, 128, 2, (Stage(16, 2, 2, 5e-3), Stage(64, 1, 2, 1e-3)), (32, 128), 2)


def run_config(sizes: Sizes, length: int, sequence: int) -> RunConfig:
    """A run of one window per step."""
    return RunConfig.model_validate(
        {
            "model": {
                "vocab_size": 256,
                "dim": 256,
                "num_layers": sizes.num_layers,
                "num_heads": 4,
                "ffn_dim": 688,
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


def haystack(batch: int, length: int, distance: int) -> tuple[Tensor, Tensor]:
    """Rows of noise with one marked value, and the mark again at the end.

    Returns:
        (tokens [batch, length], the values [batch] that should follow the last token).
    """
    tokens = torch.randint(NUM_VALUES, NUM_VALUES + NUM_FILLERS, (batch, length))
    value = torch.randint(NUM_VALUES, (batch,))
    tokens[:, length - 1 - distance] = QUERY
    tokens[:, length - distance] = value
    tokens[:, -1] = QUERY
    return tokens, value


def needle_model() -> SpectralLM:
    """A small model of recall heads with slow phases."""
    torch.manual_seed(0)
    return SpectralLM(
        ModelConfig(
            vocab_size=NUM_VALUES + NUM_FILLERS + 1,
            dim=64,
            num_layers=2,
            num_heads=2,
            conv_heads=(0,),
            ffn_dim=128,
            # two of 16 wavelengths (6 and 6,283 tokens) are short enough to occur in training, and
            # all others so long that their phases hardly move: none rotates by an unseen angle
            rotary_base=1e48,
            max_time_constant=1e8,
        )
    )


def train_needle(model: SpectralLM, curriculum: tuple[Stage, ...]) -> None:
    """Train on needles in sequences that become longer."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    done = 0
    for stage in curriculum:
        for step in range(stage.steps):
            done += 1
            share = min(1.0, done / WARMUP_STEPS)
            if stage == curriculum[-1]:
                share = 1.0 - (1.0 - LAST_RATE_SHARE) * step / stage.steps
            optimizer.param_groups[0]["lr"] = stage.rate * share
            distance = int(torch.randint(stage.tokens // 2, stage.tokens - 1, ()))
            tokens, value = haystack(stage.rows, stage.tokens, distance)
            loss = F.cross_entropy(model.prefill(tokens, num_logits=1)[0][:, -1], value)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


@torch.no_grad()
def share_recalled(model: SpectralLM, distance: int, tests: int) -> float:
    """Share of needles at a distance that the model names."""
    right = 0
    for _ in range(tests):
        tokens, value = haystack(1, distance + 64, distance)
        right += int(model.prefill(tokens, num_logits=1)[0].argmax() == value)
    return right / tests


def recall_needle(sizes: Sizes) -> list[Figure]:
    """Train on needles, test at growing distances, and print the shares."""
    model = needle_model()
    train_needle(model, sizes.curriculum)
    model.eval()
    longest = sizes.curriculum[-1].tokens
    shares = {d: share_recalled(model, d, sizes.tests) for d in sizes.distances}
    text = ", ".join(f"{share:.2f} at {distance:,}" for distance, share in shares.items())
    print(f"\nneedle, trained at up to {longest:,} tokens, recalled: {text}")
    limits = {sizes.distances[-1]: 0.9}
    return [
        Figure(f"share of needles recalled {distance:,} tokens back, trained on {longest:,}", share,
               "share", limits.get(distance))
        for distance, share in shares.items()
    ]  # fmt: skip


def measure(quick: bool) -> Outcome:
    """Train at several lengths, then on needles."""
    sizes = QUICK if quick else FULL
    torch.set_num_threads(1)
    name, data = long_text()
    # windows of three steps
    text = bytearray(data[: 3 * sizes.long + 1])
    print(name)
    figures = train_lengths(sizes, torch.frombuffer(text, dtype=torch.uint8).long())
    return Outcome(f"Bytes of {name}; one thread per rank.", figures + recall_needle(sizes))


if __name__ == "__main__":
    run_benchmark("long_context", __doc__, measure)
