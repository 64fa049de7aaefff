"""Models under torch.compile."""

import pytest
import torch

from spectral.layout import SINGLE_DEVICE
from spectral.mixers.context import sequence_context
from tests.unit.spectral.causality.checks import small_config, small_model, some_tokens

# torch's own compiler makes an object of every autograd.Function that it meets
INSTANTIATED = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


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
