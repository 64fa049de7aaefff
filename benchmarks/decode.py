"""Time of a decoded token, early and late in a sequence.

    python -m benchmarks.decode

Recurrent decoding of a small model at positions 100 and 200,000 (reached by prefilling in the
parallel form), next to a Llama of about equal size with its key-value cache at 1K, 8K and 32K
tokens. Random parameters, batch 1, one thread, the fastest of several alternating runs.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.processes import fastest
from benchmarks.harness.thresholds import Figure, Outcome
from spectral.backbone import LMState
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

DIM, LAYERS, HEADS, VOCAB = 256, 6, 4, 4_096
LATER = 1.1


class Sizes(NamedTuple):
    """Positions and cache lengths in tokens, tokens per timing, and rounds of timings."""

    near: int
    far: int
    caches: tuple[int, ...]
    block: int
    rounds: int


FULL = Sizes(100, 200_000, (1_024, 8_192, 32_768), 20, 8)
QUICK = Sizes(10, 200, (64,), 2, 2)


def prefilled(position: int) -> tuple[SpectralLM, LMState]:
    """A model, and its state after `position` tokens."""
    config = ModelConfig(vocab_size=VOCAB, dim=DIM, num_layers=LAYERS, num_heads=HEADS)
    torch.manual_seed(0)
    model = SpectralLM(config).eval()
    state: LMState | None = None
    generator = torch.Generator().manual_seed(0)
    done = 0
    while done < position:
        count = min(8_192, position - done)
        tokens = torch.randint(VOCAB, (1, count), generator=generator)
        _, state = model.prefill(tokens, None, state, num_logits=1)
        done += count
    assert state is not None
    return model, state


def decoder(model: SpectralLM, state: LMState, block: int) -> Callable[[], None]:
    """Greedy decoding of `block` tokens."""

    def run() -> None:
        token, current = torch.ones(1, dtype=torch.long), state
        for _ in range(block):
            logits, current = model.step(token, current)
            token = logits.argmax(-1)

    return run


def llama(length: int, block: int) -> tuple[LlamaForCausalLM, Callable[[], None]]:
    """A Llama with a filled key-value cache, and its greedy decoding of `block` tokens."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=DIM,
        intermediate_size=688,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=65_536,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    cache = DynamicCache(config=config)
    shape = (1, HEADS, length, DIM // HEADS)
    for layer in range(LAYERS):
        # the cache's values make no difference to the time
        cache.update(torch.randn(shape), torch.randn(shape), layer)

    def run() -> None:
        token = torch.ones(1, 1, dtype=torch.long)
        for _ in range(block):
            logits: Tensor = model(token, past_key_values=cache, use_cache=True).logits
            token = logits[:, -1:].argmax(-1)
        cache.crop(-block)

    return model, run


def state_bytes(state: LMState) -> int:
    """Memory of a state."""
    leaves = tree_leaves(state.layers)
    return sum(x.numel() * x.element_size() for x in leaves if isinstance(x, Tensor))


def num_parameters(model: torch.nn.Module) -> int:
    """Number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def measure(quick: bool) -> Outcome:
    """Measure both models and print the table."""
    near, far, caches, block, rounds = QUICK if quick else FULL
    torch.set_num_threads(1)
    model, near_state = prefilled(near)
    _, far_state = prefilled(far)
    near_run, far_run = decoder(model, near_state, block), decoder(model, far_state, block)
    near_s, far_s = (s / block for s in fastest(near_run, far_run, least=rounds))
    print(f"{num_parameters(model):,} parameters; state {state_bytes(far_state):,} bytes")
    print(f"{'position':>10}{'ms/token':>10}{'Llama':>10}{'ratio':>8}{'its cache':>14}")
    print(f"{near:>10,}{near_s * 1e3:>10.2f}")
    figures = [
        Figure(f"time per token at position {near:,}", near_s * 1e3, "ms"),
        Figure(f"time per token at position {far:,}", far_s * 1e3, "ms"),
        Figure(f"time per token at position {far:,} over that at {near:,}", far_s / near_s,
               limit=LATER, at_most=True),
        Figure(f"size of the state at position {far:,}", float(state_bytes(far_state)), "bytes"),
        Figure(f"size of the state at position {far:,} over that at {near:,}",
               state_bytes(far_state) / state_bytes(near_state), limit=1.0, at_most=True),
    ]  # fmt: skip
    for length in caches:
        rival, rival_run = llama(length, block)
        spectral_s, rival_s = (
            s / block for s in fastest(far_run, rival_run, least=max(2, rounds // 2))
        )
        cache_bytes = 2 * LAYERS * length * DIM * 4
        print(
            f"{length:>10,}{spectral_s * 1e3:>10.2f}{rival_s * 1e3:>10.2f}"
            f"{rival_s / spectral_s:>8.2f}{cache_bytes:>14,}"
        )
        figures.append(
            Figure(f"Llama's time per token at {length:,} cached tokens over ours at {far:,}",
                   rival_s / spectral_s)
        )  # fmt: skip
    print(f"{far:>10,}{far_s * 1e3:>10.2f}   (Llama has {num_parameters(rival):,} parameters)")
    return Outcome(
        f"{num_parameters(model):,} parameters, Llama {num_parameters(rival):,}; batch 1, one "
        "thread, float32.",
        figures,
    )


if __name__ == "__main__":
    run_benchmark("decode", __doc__, measure)
