"""200K tokens of context, trained for real on two sequence ranks.

    python benchmarks/long_context.py

A model of about 10M parameters on bytes of a book (the standard library's source if there is none),
one thread per rank, float32, every block recomputed: three optimizer steps at 204,800 tokens on two
ranks, one on one rank for its memory, and steps at 8,192 to compare the speed. Then a small model
learns to recall a needle at short distances and is asked at more than 100,000 tokens. Prints a
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
# needle: a key, then its value, both of 64 kinds, between 64 kinds of other tokens
NUM_VALUES, NUM_FILLERS, QUERY = 64, 64, 128
NEEDLE_DISTANCE = 131_072


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
    cases = [(LONG, 2, 3), (LONG // 2, 2, 1), (SHORT, 2, 6), (LONG, 1, 1)]
    found: dict[tuple[int, int], Measurement] = {}
    print(f"{name}\n{'tokens':>8} {'ranks':>5} {'tokens/s':>9} {'GiB/rank':>8}  losses")
    for length, ranks, steps in cases:
        result = measure(run_config(length, ranks), ranks, tokens, steps)
        found[length, ranks] = result
        losses = ", ".join(f"{loss:.3f}" for loss in result.losses)
        gib = result.memory / 2**30
        print(f"{length:>8} {ranks:>5} {result.tokens_per_s:>9,.0f} {gib:>8.2f}  {losses}")
    long, half = found[LONG, 2], found[LONG // 2, 2]
    return [
        Bar(
            f"tokens/s at {LONG:,} over those at {SHORT:,}",
            long.tokens_per_s / found[SHORT, 2].tokens_per_s,
            0.85,
        ),
        Bar(f"memory at {LONG:,} over {LONG // 2:,}", long.memory / half.memory, 2.1, at_most=True),
        Bar(
            "memory of 2 ranks over 1 rank's",
            long.memory / found[LONG, 1].memory,
            0.55,
            at_most=True,
        ),
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
    """Train at up to 1,024 tokens, ask at more than 100,000."""
    torch.manual_seed(0)
    model = SpectralLM(
        ModelConfig(
            vocab_size=NUM_VALUES + NUM_FILLERS + 1,
            dim=128,
            num_layers=2,
            num_heads=4,
            conv_heads=(2,),
            ffn_dim=256,
            # phases that mean something at distances never seen in training
            rotary_base=1e12,
            max_time_constant=1e7,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    steps = 600
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        length = 64 if step < steps // 3 else 256 if step < 2 * steps // 3 else 1024
        tokens, value = haystack(32, length, int(torch.randint(2, length - 1, ())))
        loss = F.cross_entropy(model.prefill(tokens, num_logits=1)[0][:, -1], value)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    model.eval()
    right, asked = 0, 16
    with torch.no_grad():
        for _ in range(asked):
            tokens, value = haystack(1, NEEDLE_DISTANCE + 64, NEEDLE_DISTANCE)
            right += int(model.prefill(tokens, num_logits=1)[0].argmax() == value)
    print(f"\nneedle: trained at up to 1,024 tokens, loss {float(loss):.3f} at the end")
    return Bar(
        f"needle found {NEEDLE_DISTANCE:,} tokens back, share of {asked}", right / asked, 0.9
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    judge([*trained(), needle()])
