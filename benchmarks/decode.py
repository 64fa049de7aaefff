"""How fast is a token, and does it cost more the later it comes?

    python benchmarks/decode.py

Recurrent decoding of a small model at positions 100 and 200,000 (which the parallel form reaches by
prefilling), beside a Llama of about equal size with its key-value cache at 1K, 8K and 32K. Random
parameters, batch 1, one thread, the fastest of several runs by turns. Prints a table, a line per
bar, and exits with 1 if a bar falls short.
"""

import time
from collections.abc import Callable

import torch
from bars import Bar, judge
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from spectral.config import ModelConfig
from spectral.lm import LMState, SpectralLM

DIM, LAYERS, HEADS, VOCAB = 256, 6, 4, 4_096
FAR, NEAR = 200_000, 100
LATER, BLOCK = 1.1, 20
LENGTHS = (1_024, 8_192, 32_768)


def spectral(position: int) -> tuple[SpectralLM, LMState]:
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


def decoder(model: SpectralLM, state: LMState) -> Callable[[], None]:
    """Some tokens, greedily."""
    token = torch.ones(1, dtype=torch.long)

    def run() -> None:
        own, now = token, state
        for _ in range(BLOCK):
            logits, now = model.step(own, now)
            own = logits.argmax(-1)

    return run


def llama(length: int) -> tuple[LlamaForCausalLM, Callable[[], None]]:
    """A Llama with a filled key-value cache, and some tokens of it."""
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
        # what is in it makes no difference to the time
        cache.update(torch.randn(shape), torch.randn(shape), layer)

    def run() -> None:
        token = torch.ones(1, 1, dtype=torch.long)
        for _ in range(BLOCK):
            logits: Tensor = model(token, past_key_values=cache, use_cache=True).logits
            token = logits[:, -1:].argmax(-1)
        cache.crop(-BLOCK)

    return model, run


def fastest(*runs: Callable[[], None], rounds: int = 8) -> list[float]:
    """Seconds per token of each, by turns."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, found in zip(runs, times, strict=True):
            begin = time.perf_counter()
            run()
            found.append((time.perf_counter() - begin) / BLOCK)
    return [min(found) for found in times]


def num_bytes(state: LMState) -> int:
    """Memory of a state."""
    leaves = tree_leaves(state.layers)
    return sum(x.numel() * x.element_size() for x in leaves if isinstance(x, Tensor))


@torch.no_grad()
def main() -> None:
    """Print the table and the bars."""
    torch.set_num_threads(1)
    model, near = spectral(NEAR)
    _, far = spectral(FAR)
    size = sum(parameter.numel() for parameter in model.parameters())
    early, late = fastest(decoder(model, near), decoder(model, far))
    print(f"{size:,} parameters; state {num_bytes(far):,} bytes")
    print(f"{'position':>10}{'ms/token':>10}{'Llama':>10}{'ratio':>8}{'its cache':>14}")
    print(f"{NEAR:>10,}{early * 1e3:>10.2f}")
    for length in LENGTHS:
        rival, run = llama(length)
        ours, theirs = fastest(decoder(model, far), run, rounds=4)
        cache = 2 * LAYERS * length * DIM * 4
        print(
            f"{length:>10,}{ours * 1e3:>10.2f}{theirs * 1e3:>10.2f}{theirs / ours:>8.2f}"
            f"{cache:>14,}"
        )
        parameters = sum(parameter.numel() for parameter in rival.parameters())
    print(f"{FAR:>10,}{late * 1e3:>10.2f}   (Llama has {parameters:,} parameters)")
    judge(
        [
            Bar(f"time per token at {FAR:,} / at {NEAR}", late / early, LATER, at_most=True),
            Bar(
                f"bytes of state at {FAR:,} / at {NEAR}",
                num_bytes(far) / num_bytes(near),
                1.0,
                at_most=True,
            ),
        ]
    )


if __name__ == "__main__":
    main()
