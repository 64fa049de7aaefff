"""Recall of what stood more than 100,000 tokens ago, by trained models.

    python -m benchmarks.long_recall

Two small models learn at short distances and are tested at long ones. The one of recall heads names
the single token that followed a mark (a needle). The one of FFT layers names the token of which a
passage of one chunk consisted; its near filters fade within a chunk, so that only the fusion of
spectra across chunks (docs/architecture.md) can reach further: 800 chunks. One thread, float32.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.thresholds import Figure, Outcome
from spectral.config import ModelConfig
from spectral.lm import SpectralLM
from spectral.modules.chunk_fusion import ChunkFusion

# values that are recalled, between other tokens; queries ask for them
NUM_VALUES, NUM_FILLERS, QUERY = 16, 4, 20
WARMUP_STEPS, LAST_RATE_SHARE = 60, 0.1
# queries of a row while passages are learned
NUM_QUERIES = 32


class Question(NamedTuple):
    """Rows whose tokens at some positions ask for a value.

    Attributes:
        tokens: Token ids [batch, length].
        asked: Positions of the queries [n], the last of them at the end.
        value: What should follow each query of a row [batch].
    """

    tokens: Tensor
    asked: Tensor
    value: Tensor


class Stage(NamedTuple):
    """Training at one length of a curriculum."""

    tokens: int
    rows: int
    steps: int
    rate: float


class Task(NamedTuple):
    """A model, how it learns, and where it is tested.

    Attributes:
        name: What is recalled.
        config: The model.
        ask: Rows [batch, length] whose value stands `distance` before their end.
        curriculum: Stages of training.
        distances: Distances in tokens of the tests; the last one has a bar.
        tests: Rows per distance.
    """

    name: str
    config: ModelConfig
    ask: Callable[[int, int, int], Question]
    curriculum: tuple[Stage, ...]
    distances: tuple[int, ...]
    tests: int


def needle(batch: int, length: int, distance: int) -> Question:
    """Rows of noise with one marked value, and the mark again at the end."""
    tokens = torch.randint(NUM_VALUES, NUM_VALUES + NUM_FILLERS, (batch, length))
    value = torch.randint(NUM_VALUES, (batch,))
    tokens[:, length - 1 - distance] = QUERY
    tokens[:, length - distance] = value
    tokens[:, -1] = QUERY
    return Question(tokens, torch.tensor([length - 1]), value)


def passage_of(chunk: int) -> Callable[[int, int, int], Question]:
    """Rows of noise with a passage of `chunk` times the same value.

    Queries stand at random in the second half of what follows, and at the end.
    """

    def passage(batch: int, length: int, distance: int) -> Question:
        tokens = torch.randint(NUM_VALUES, NUM_VALUES + NUM_FILLERS, (batch, length))
        value = torch.randint(NUM_VALUES, (batch,))
        begin = length - 1 - distance
        tokens[:, begin : begin + chunk] = value[:, None]
        asked = torch.randint(length - distance // 2, length, (NUM_QUERIES,))
        asked[-1] = length - 1
        tokens[:, asked] = QUERY
        return Question(tokens, asked, value)

    return passage


# Longer sequences come once the model has learned the task. What it writes into its state for each
# of 100,000 fillers must be close to nothing, which only long sequences teach it.
NEEDLE = Task(
    "needle",
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
    ),
    needle,
    (
        Stage(64, 32, 450, 5e-3),
        Stage(256, 8, 200, 4e-3),
        Stage(1_024, 4, 150, 3e-3),
        Stage(4_096, 4, 100, 2e-3),
        Stage(16_384, 2, 80, 1e-3),
        Stage(65_536, 1, 200, 1e-3),
    ),
    (8_192, 65_536, 131_072),
    16,
)
CHUNK = 256
PASSAGE = Task(
    "passage",
    ModelConfig(
        vocab_size=NUM_VALUES + NUM_FILLERS + 1,
        dim=32,
        num_layers=2,
        num_heads=4,
        mixers=("fft",),
        ffn_dim=64,
        fft={"chunk": CHUNK},
        max_time_constant=float(CHUNK),
    ),
    passage_of(CHUNK),
    (
        Stage(1_024, 8, 300, 5e-3),
        Stage(4_096, 2, 150, 2e-3),
        Stage(16_384, 1, 120, 1.5e-3),
        Stage(65_536, 1, 120, 1e-3),
        Stage(204_800, 1, 120, 1e-3),
    ),
    (8_192, 65_536, 204_800),
    16,
)


def quick(task: Task) -> Task:
    """The task at a tiny size."""
    changes = {"fft": {"chunk": 16}} if task is PASSAGE else {}
    return task._replace(
        config=ModelConfig.model_validate(task.config.model_dump() | changes),
        ask=passage_of(16) if task is PASSAGE else task.ask,
        curriculum=(Stage(64, 2, 2, 5e-3), Stage(128, 1, 2, 1e-3)),
        distances=(64, 128),
        tests=2,
    )


@torch.no_grad()
def lengthen_decays(model: SpectralLM) -> None:
    """Let fusions begin with time constants of 64 to 4,096 chunks in place of 1 to 64."""
    for module in model.modules():
        if isinstance(module, ChunkFusion):
            module.log_decay_H -= math.log(64.0)


def train(model: SpectralLM, task: Task) -> None:
    """Train on rows that become longer; a value stands in the first half of each."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    done = 0
    for stage in task.curriculum:
        for step in range(stage.steps):
            done += 1
            share = min(1.0, done / WARMUP_STEPS)
            if stage == task.curriculum[-1]:
                share = 1.0 - (1.0 - LAST_RATE_SHARE) * step / stage.steps
            optimizer.param_groups[0]["lr"] = stage.rate * share
            distance = int(torch.randint(stage.tokens // 2, stage.tokens - 1, ()))
            question = task.ask(stage.rows, stage.tokens, distance)
            logits_BQV = model(question.tokens)[:, question.asked]
            target_BQ = question.value[:, None].expand(-1, len(question.asked))
            loss = F.cross_entropy(logits_BQV.flatten(0, 1), target_BQ.flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


@torch.no_grad()
def share_recalled(model: SpectralLM, task: Task, distance: int) -> float:
    """Share of values at a distance that the model names."""
    right = 0
    for _ in range(task.tests):
        tokens, _, value = task.ask(1, distance + 64, distance)
        right += int(model.prefill(tokens, num_logits=1)[0].argmax() == value)
    return right / task.tests


def recall(task: Task) -> list[Figure]:
    """Train, test at growing distances, and print the shares."""
    torch.manual_seed(0)
    model = SpectralLM(task.config)
    lengthen_decays(model)
    train(model, task)
    model.eval()
    longest = task.curriculum[-1].tokens
    shares = {d: share_recalled(model, task, d) for d in task.distances}
    text = ", ".join(f"{share:.2f} at {distance:,}" for distance, share in shares.items())
    print(f"{task.name}, trained at up to {longest:,} tokens, recalled: {text}")
    limits = {task.distances[-1]: 0.9}
    return [
        Figure(f"share of {task.name}s recalled {distance:,} tokens back, trained on {longest:,}",
               share, "share", limits.get(distance))
        for distance, share in shares.items()
    ]  # fmt: skip


def measure(is_quick: bool) -> Outcome:
    """Train and test both models."""
    torch.set_num_threads(1)
    tasks = [quick(task) if is_quick else task for task in (NEEDLE, PASSAGE)]
    figures = [figure for task in tasks for figure in recall(task)]
    return Outcome("16 kinds of values between 4 kinds of other tokens; one thread.", figures)


if __name__ == "__main__":
    run_benchmark("long_recall", __doc__, measure)
