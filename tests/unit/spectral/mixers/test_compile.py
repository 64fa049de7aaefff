"""Models under torch.compile."""

import pytest
import torch

from spectral.layout import SINGLE_DEVICE
from spectral.mixers.context import sequence_context
from tests.distributed.features import EVERYTHING, GATES
from tests.unit.spectral.causality.checks import small_config, small_model, some_tokens

# torch's own compiler makes an object of every autograd.Function that it meets
INSTANTIATED = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.mark.parametrize(
    ("changes", "documents"),
    [
        ({"num_modes": 8} | EVERYTHING, True),
        ({"feed_forward": "experts"}, True),
        pytest.param(
            {"num_modes": 8, "mixers": ("fft", "wavelet"), "fft": {"chunk": 8}} | GATES,
            True,
            marks=pytest.mark.slow,
        ),
        (
            {
                "mixers": ("fft", "wavelet", "heads"),
                "fft": {"direct": 16, "chunk": 8},
                "causal": False,
            },
            False,
        ),
    ],
    ids=["gates", "experts", "fft", "bidirectional"],
)
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not support code generation for complex:UserWarning")
@INSTANTIATED
def test_blocks_compile_without_graph_breaks(changes: dict[str, object], documents: bool) -> None:
    model = small_model(small_config(**changes)).float()
    # two rows: operators' results then have strides that one row hides
    segments = torch.tensor([[0] * 9 + [1] * 12, [0] * 4 + [1] * 17]) if documents else None
    x = torch.randn(2, 21, 16, requires_grad=True)
    context = sequence_context(model.config, SINGLE_DEVICE, x, 0, 21, segments)
    for block in model.train().blocks:
        torch._dynamo.reset()
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        results = []
        for run in (compiled, block):
            torch.manual_seed(0)
            y, _, auxiliary = run(x, context)
            loss = y.square().sum() + (0.0 if auxiliary is None else auxiliary)
            results.append((y, *torch.autograd.grad(loss, x)))
        torch.testing.assert_close(*results)


@INSTANTIATED
def test_a_whole_model_compiles() -> None:
    model = small_model(small_config()).float()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(some_tokens(1, 21)), model(some_tokens(1, 21)))
