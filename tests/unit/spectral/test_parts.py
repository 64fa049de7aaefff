"""Harmonic embedding, frequency feed-forward, byte models, transposed signals, torch.compile."""

import math

import pytest
import torch

from data_pipeline.tokenizer import load_tokenizer
from spectral.config import ModelConfig
from spectral.embedding import HarmonicEmbedding
from spectral.feed_forward.mlp import FrequencyFeedForward
from spectral.layout import SINGLE_DEVICE
from spectral.lm import SpectralLM
from spectral.mixers.context import sequence_context
from spectral.modules.transpose import channels_first, time_first
from tests.unit.spectral.causality.checks import (
    check_causal,
    check_isolated,
    check_recurrent,
    small_config,
    small_model,
    some_tokens,
)

# torch's own compiler makes an object of every autograd.Function that it meets
INSTANTIATED = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def test_a_harmonic_vector_is_a_sum_of_sinusoids() -> None:
    torch.manual_seed(0)
    embedding = HarmonicEmbedding(vocab_size=5, dim=12).double()
    vector = embedding(torch.tensor([3]))[0]
    for d in range(12):
        rows = (embedding.amplitude, embedding.frequency, embedding.phase)
        terms = [
            a * math.sin(2 * math.pi * f * d / 12 + p)
            for a, f, p in zip(*(row[3].tolist() for row in rows), strict=True)
        ]
        assert vector[d].item() == pytest.approx(sum(terms))
    torch.testing.assert_close(embedding.table()[3], vector)


def test_frequency_feed_forward_blends_its_two_paths() -> None:
    torch.manual_seed(0)
    layer, x = FrequencyFeedForward(dim=10, hidden=16).double(), torch.randn(2, 3, 10).double()
    with torch.no_grad():
        layer.blend.fill_(-100.0)
        torch.testing.assert_close(layer(x), layer.gated(x))
        layer.blend.fill_(100.0)
        # identity, GELU, identity
        layer.filters_2F2.zero_()
        layer.filters_2F2[..., 0] = 1.0
        torch.testing.assert_close(layer(x), torch.nn.functional.gelu(x))


@pytest.mark.parametrize(
    "changes",
    [{"embedding": "harmonic"}, {"feed_forward": "frequency"}],
    ids=lambda changes: "-".join(changes),
)
def test_variants_stay_causal_isolated_and_recurrent(changes: dict[str, object]) -> None:
    config = small_config(**changes)
    check_causal(small_model(config))
    check_isolated(small_model(config))
    check_recurrent(small_model(config))


def test_a_byte_model_needs_no_tokenizer_file() -> None:
    tokenizer = load_tokenizer("byte")
    model = SpectralLM(ModelConfig(vocab_size=tokenizer.vocab_size, dim=16, num_layers=1))
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode("naïve")]])
    assert model(ids).shape == (1, 7, 259)


def test_signals_are_transposed_and_their_gradients_back() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(channels_first(x), x.transpose(1, 2))
    torch.testing.assert_close(time_first(x), x.transpose(1, 2))
    for swap in (channels_first, time_first):
        assert torch.autograd.gradcheck(swap, (x,))
        assert torch.autograd.gradgradcheck(swap, (x,))
        # of signals that lie in memory in another order
        assert torch.autograd.gradcheck(lambda x, swap=swap: swap(x.transpose(0, 2)), (x,))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_modes": 8, "gates": {"bands": True, "cross_head": True}},
        {"mixers": ("fft", "wavelet"), "fft": {"chunk": 8}},
        {
            "mixers": ("fft", "wavelet", "heads"),
            "fft": {"direct": 16, "chunk": 8},
            "causal": False,
        },
    ],
)
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not support code generation for complex:UserWarning")
@INSTANTIATED
def test_mixers_compile_without_graph_breaks(changes: dict[str, object]) -> None:
    model = small_model(small_config(**changes)).float()
    context = sequence_context(model.config, SINGLE_DEVICE, torch.zeros(1, 21, 16), 0, 21, None)
    x = torch.randn(1, 21, 16, requires_grad=True)
    for block in model.blocks:
        torch._dynamo.reset()
        compiled = torch.compile(block.mixer, fullgraph=True, backend="aot_eager")
        y, _, _ = compiled(x, context)
        expected, _, _ = block.mixer(x, context)
        torch.testing.assert_close(y, expected)
        grads = [torch.autograd.grad(out.square().sum(), x)[0] for out in (y, expected)]
        torch.testing.assert_close(*grads)


@INSTANTIATED
def test_a_whole_model_compiles() -> None:
    model = small_model(small_config()).float()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(some_tokens(1, 21)), model(some_tokens(1, 21)))
