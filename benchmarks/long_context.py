"""200K tokens of context, trained for real on two sequence ranks.

    python benchmarks/long_context.py

A model of about 10M parameters on bytes of a book (the standard library's source if there is none),
one thread per rank, float32, every block recomputed: three optimizer steps at 204,800 tokens on two
ranks, one on one rank for its memory, and steps at 8,192 to compare the speed. Then a small model
learns to recall a needle at shorter distances and is asked at more than 100,000 tokens. Prints a
table and a line per bar; exits with 1 when one falls short.
"""

import lzma
import sysconfig
from pathlib import Path

import torch
import torch.nn.functional as F
from bars import Bar, judge
from layout_worker import Measurement, measure
from torch import Tensor

from pretrain.config import RunConfig
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

BOOK = Path(__file__).parents[2] / "shared/data/long/war_and_peace.md.xz"
LONG, SHORT = 204_800, 8_192
MODEL = {"vocab_size": 256, "dim": 256, "num_layers": 12, "num_heads": 4, "ffn_dim": 688}
# needle: a mark, then a value of 16 kinds, between 4 kinds of other tokens
NUM_VALUES, NUM_FILLERS, QUERY = 16, 4, 20
NEEDLE_DISTANCE = 131_072
# tokens, rows, steps, learning rate: longer sequences once the model knows what is asked. What it
# writes of each of 100,000 fillers must be next to nothing, which only long ones teach it.
CURRICULUM = (
    (64, 32, 450, 5e-3),
    (256, 8, 200, 4e-3),
    (1_024, 4, 150, 3e-3),
    (4_096, 4, 100, 2e-3),
    (16_384, 2, 80, 1e-3),
    (65_536, 1, 200, 1e-3),
)
WARMUP_STEPS, LAST_RATE_SHARE = 60, 0.1


def book() -> tuple[str, Tensor]:
    """Name and bytes of a long text."""
    if BOOK.exists():
        name, data = BOOK.name, lzma.decompress(BOOK.read_bytes())
    else:
        name = "the standard library's source"
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        data = b"".join(file.read_bytes() for file in files)
    return name, torch.frombuffer(bytearray(data), dtype=torch.uint8).long()


def run_config(length: int, sequence: int) -> RunConfig:
    """A run of one window per step."""
    return RunConfig.model_validate(
        {
            "model": MODEL,
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


def trained() -> list[Bar]:
    """Speed and memory at several lengths."""
    name, tokens = book()
    cases = [(LONG, 2, 3), (LONG // 2, 2, 2), (SHORT, 2, 6), (LONG, 1, 1)]
    found: dict[tuple[int, int], Measurement] = {}
    print(f"{name}\n{'tokens':>8} {'ranks':>5} {'tokens/s':>9} {'GiB/rank':>8}  losses")
    for length, ranks, steps in cases:
        result = measure(run_config(length, ranks), ranks, tokens, steps)
        found[length, ranks] = result
        losses = ", ".join(f"{loss:.3f}" for loss in result.losses)
        gib = result.memory[-1] / 2**30
        print(f"{length:>8} {ranks:>5} {result.tokens_per_s:>9,.0f} {gib:>8.2f}  {losses}")
    long = found[LONG, 2]
    # of the first step, which all have in common
    peak = {case: result.memory[0] for case, result in found.items()}
    return [
        Bar(
            f"tokens/s at {LONG:,} over those at {SHORT:,}",
            long.tokens_per_s / found[SHORT, 2].tokens_per_s,
            0.85,
        ),
        Bar(
            f"memory at {LONG:,} over {LONG // 2:,}",
            peak[LONG, 2] / peak[LONG // 2, 2],
            2.1,
            at_most=True,
        ),
        Bar("memory of 2 ranks over 1 rank's", peak[LONG, 2] / peak[LONG, 1], 0.55, at_most=True),
        Bar("loss of the first step over the third's", long.losses[0] / long.losses[2], 1.0),
    ]


def haystack(batch: int, length: int, distance: int) -> tuple[Tensor, Tensor]:
    """Rows of noise with one marked value in it, and the mark again at the end.

    Returns:
        (tokens [batch, length], the values [batch] that should follow the last token).
    """
    tokens = torch.randint(NUM_VALUES, NUM_VALUES + NUM_FILLERS, (batch, length))
    value = torch.randint(NUM_VALUES, (batch,))
    tokens[:, length - 1 - distance] = QUERY
    tokens[:, length - distance] = value
    tokens[:, -1] = QUERY
    return tokens, value


def needle() -> Bar:
    """Train at up to 65,536 tokens, ask at more than 100,000."""
    torch.manual_seed(0)
    model = SpectralLM(
        ModelConfig(
            vocab_size=NUM_VALUES + NUM_FILLERS + 1,
            dim=64,
            num_layers=2,
            num_heads=2,
            conv_heads=(0,),
            ffn_dim=128,
            # two of 16 wavelengths (6 and 6,283 tokens) are short enough to be met in training, and
            # all others so long that their phases hardly move: none turns at an unseen distance
            rotary_base=1e48,
            max_time_constant=1e8,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    done = 0
    for length, batch, steps, rate in CURRICULUM:
        for step in range(steps):
            done += 1
            share = min(1.0, done / WARMUP_STEPS)
            if length == CURRICULUM[-1][0]:
                share = 1.0 - (1.0 - LAST_RATE_SHARE) * step / steps
            optimizer.param_groups[0]["lr"] = rate * share
            distance = int(torch.randint(length // 2, length - 1, ()))
            tokens, value = haystack(batch, length, distance)
            loss = F.cross_entropy(model.prefill(tokens, num_logits=1)[0][:, -1], value)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    model.eval()
    asked, found = 16, {}
    with torch.no_grad():
        for distance in (8_192, 65_536, NEEDLE_DISTANCE):
            right = 0
            for _ in range(asked):
                tokens, value = haystack(1, distance + 64, distance)
                right += int(model.prefill(tokens, num_logits=1)[0].argmax() == value)
            found[distance] = right / asked
    shares = ", ".join(f"{share:.2f} at {distance:,}" for distance, share in found.items())
    print(f"\nneedle, trained at up to {CURRICULUM[-1][0]:,} tokens, found: {shares}")
    return Bar(f"needle found {NEEDLE_DISTANCE:,} tokens back", found[NEEDLE_DISTANCE], 0.9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    judge([*trained(), needle()])
