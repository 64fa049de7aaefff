"""State tracking: what each kind of recall head can count, trained at 64 tokens, tested at 256.

    python -m benchmarks.state_tracking

After every token of a sequence, its state is to be named: the sum of all digits so far modulo 2
(parity) or 3, or the product of all permutations of three things so far (S3, which does not
commute). Two layers of recall heads, dim 64, AdamW, one seed; accuracy over all tokens, and the
share that chance gives. States that only decay cannot count parity (Grazzi et al. 2024, arXiv
2411.12537); a state that a write can flip can.
"""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.training.optimizer import parameter_groups
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

KINDS: dict[str, dict[str, object]] = {
    "decay": {},
    "decay, phases from data": {"recall_phase": "data"},
    "delta": {"recall_rule": "delta"},
    "delta, phases from data": {"recall_rule": "delta", "recall_phase": "data"},
}
PERMUTATIONS = list(itertools.permutations(range(3)))


class Task(NamedTuple):
    """A group whose elements are multiplied token by token.

    Attributes:
        name: Name of the task.
        table: Product of a state and a token, both numbers of elements.
    """

    name: str
    table: Tensor


class Sizes(NamedTuple):
    """Training steps, rows of a batch, lengths in training and in the longer test, test rows."""

    steps: int
    rows: int
    length: int
    longer: int
    test_rows: int


FULL = Sizes(400, 32, 64, 256, 64)
QUICK = Sizes(2, 2, 8, 16, 2)
# accuracy at the longer length
BARS = {("parity", "delta"): 0.95}
AT_MOST = {("parity", "decay"): 0.75}


def cyclic(size: int) -> Tensor:
    """The sum of two numbers modulo `size`."""
    return (torch.arange(size)[:, None] + torch.arange(size)) % size


def symmetric() -> Tensor:
    """The permutation that applies the second of two permutations after the first."""
    products = [
        [PERMUTATIONS.index(tuple(second[i] for i in first)) for second in PERMUTATIONS]
        for first in PERMUTATIONS
    ]
    return torch.tensor(products)


TASKS = (Task("parity", cyclic(2)), Task("sum modulo 3", cyclic(3)), Task("S3", symmetric()))


def examples(task: Task, rows: int, length: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """(tokens_BT, the state after each token [B, T]); every state begins at element 0."""
    tokens_BT = torch.randint(len(task.table), (rows, length), generator=random)
    state_B, states = torch.zeros(rows, dtype=torch.long), []
    for token_B in tokens_BT.unbind(1):
        state_B = task.table[state_B, token_B]
        states.append(state_B)
    return tokens_BT, torch.stack(states, dim=1)


def trained(task: Task, changes: dict[str, object], sizes: Sizes) -> SpectralLM:
    """A model of two layers of recall heads, trained on the task."""
    torch.manual_seed(0)
    values = {
        "vocab_size": 16,
        "dim": 64,
        "num_layers": 2,
        "num_heads": 2,
        "conv_heads": (0,),
        "ffn_dim": 128,
        "max_time_constant": 256.0,
    }
    model = SpectralLM(ModelConfig.model_validate(values | changes))
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=3e-3, betas=(0.9, 0.95))
    random = torch.Generator().manual_seed(1)
    for step in range(sizes.steps):
        warmup = min(1.0, 20 * (step + 1) / sizes.steps)
        decay = 0.55 + 0.45 * math.cos(math.pi * step / sizes.steps)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * warmup * decay
        tokens, states = examples(task, sizes.rows, sizes.length, random)
        loss = F.cross_entropy(model(tokens).flatten(0, 1), states.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: SpectralLM, task: Task, rows: int, length: int) -> float:
    """Share of states that the model names."""
    tokens, states = examples(task, rows, length, torch.Generator().manual_seed(2))
    return (model(tokens).argmax(-1) == states).double().mean().item()


def track(task: Task, kind: str, sizes: Sizes) -> list[Figure]:
    """Train one kind of head on one task, test it, and print both accuracies."""
    model = trained(task, KINDS[kind], sizes)
    same, longer = (accuracy(model, task, sizes.test_rows, T) for T in (sizes.length, sizes.longer))
    chance = 1 / len(task.table)
    print(f"{task.name:<14}{kind:<26}{same:>8.3f}{longer:>8.3f}   chance {chance:.3f}", flush=True)
    name, key = f"{task.name}, {kind}: accuracy at", (task.name, kind)
    limit = BARS.get(key, AT_MOST.get(key))
    return [
        Figure(f"{name} {sizes.length} tokens, as trained", same, "share"),
        Figure(f"{name} {sizes.longer} tokens", longer, "share", limit, at_most=key in AT_MOST),
    ]


def measure(quick: bool) -> Outcome:
    """Train and test every kind of head on every task."""
    sizes = QUICK if quick else FULL
    torch.set_num_threads(1)
    print(f"{'task':<14}{'recall heads':<26}{sizes.length:>8}{sizes.longer:>8}")
    figures = [figure for task in TASKS for kind in KINDS for figure in track(task, kind, sizes)]
    return Outcome("Two layers of recall heads, dim 64, one seed, one thread.", figures)


if __name__ == "__main__":
    run_benchmark("state_tracking", __doc__, measure)
