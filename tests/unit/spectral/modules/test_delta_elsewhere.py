"""Delta heads without rotations against transformers' gated DeltaNet."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.qwen3_5 import modeling_qwen3_5

from spectral.modules.delta import delta

H, K, V = 3, 16, 8
FORMS = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")


def _in_chunks(x_BTHX: Tensor, chunk: int) -> Tensor:
    padded = F.pad(x_BTHX, (0, 0, 0, 0, 0, -x_BTHX.shape[1] % chunk))
    return padded.unflatten(1, (-1, chunk)).flatten(0, 1).transpose(1, 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("T", [1, 50, 130])
def test_outputs_states_and_gradients_are_those_of_transformers(T: int, form: str) -> None:
    torch.manual_seed(T)
    q, k = (F.normalize(torch.randn(2, T, H, K), dim=-1) for _ in range(2))
    v, grad = torch.randn(2, T, H, V), torch.randn(2, T, H, V)
    strength, log_decay = 2.0 * torch.rand(2, T, H), -0.2 * torch.rand(2, T, H)
    state = torch.randn(2, H, K, V)
    inputs = [i.requires_grad_() for i in (q, k, v, strength, log_decay, state)]
    q, k, v, strength, log_decay, state = inputs

    theirs = getattr(modeling_qwen3_5, form)(
        q, k, v, g=log_decay, beta=strength, initial_state=state, output_final_state=True
    )
    # there, queries are divided by the square root of their width
    theirs = theirs[0] * K**0.5, theirs[1]
    b = strength[..., None]
    vectors = [_in_chunks(i, min(T, 32)) for i in (q, k, b * k, b * v)]
    ours = delta(*vectors, log_decay, None, state)
    # both are rounded to float32 in each of a few hundred sums
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)
    gradients = [
        torch.autograd.grad((y * grad).sum() + final.square().sum(), inputs)
        for y, final in (ours, theirs)
    ]
    for mine, other in zip(*gradients, strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm()
