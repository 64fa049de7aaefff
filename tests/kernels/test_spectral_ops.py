"""The reference ops against their definitions: modes, recall heads, gates and norms."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.delta.op import delta_write
from kernels.delta.reference import invert
from kernels.document_reset.op import document_reset
from kernels.modal.info import MANY_ROWS, random_modes
from kernels.modal.op import modal_read, modal_state
from kernels.modal.reference import mode_powers
from kernels.norm_gate.op import norm_gate
from kernels.op_info import complex_randn, randn
from kernels.recall import reference as recall_reference
from kernels.recall.op import recall_local, recall_read, recall_state
from kernels.spectral_gate.op import gate_spectrum, gate_values, spectral_energy
from kernels.spectral_gate.reference import GateParts

C128 = torch.complex128


@pytest.mark.parametrize("C", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("N", [3, MANY_ROWS])
@pytest.mark.parametrize("masked", [False, True])
def test_modes_equal_their_sums(C: int, N: int, masked: bool) -> None:
    torch.manual_seed(C)
    log, u, state = random_modes(2, 4), randn(2, N, C), complex_randn(2, N, 4)
    mask = torch.rand(N, C) > 0.4 if masked else None
    seen = torch.ones(N, C) if mask is None else mask
    lambda_DM1 = log.exp()[..., None]
    powers = mode_powers(log, C, C128)
    written = torch.einsum(
        "dnc,dmc->dnm", (u * seen).to(C128), lambda_DM1 ** torch.arange(C).flip(0)
    )
    torch.testing.assert_close(modal_state(u, powers, mask), written)
    read = torch.einsum("dnm,dmc->dnc", state, lambda_DM1 ** torch.arange(C)).real * seen
    torch.testing.assert_close(modal_read(state, powers, u, mask), u + read)


def test_powers_of_long_phases_are_exact_to_float32() -> None:
    log = torch.complex(torch.tensor([[-1e-6]]), torch.tensor([[3.1]])).to(C128)
    _, fine, coarse = mode_powers(log, 8192, torch.complex64)
    table = (coarse[:, :, None] * fine[:, None]).flatten(1, 2)[0, :, 0]
    exact = (log[0, 0] * torch.arange(8192)).exp()
    assert (table - exact).abs().max() < 4 * torch.finfo(torch.float32).eps


def test_recall_in_half_precision_is_float32_rounded() -> None:
    torch.manual_seed(0)
    q, k, v, grad = torch.randn(4, 2, 3, 8, 4).bfloat16()
    total = -torch.rand(2, 3, 8).cumsum(-1)
    segment = torch.zeros(2, 8, dtype=torch.long)
    inputs = q, k, v, total, segment
    exact = q.float(), k.float(), v.float(), total, segment
    forward, backward = recall_reference.recall_local, recall_reference.recall_local_backward
    found = forward(*inputs), *backward(grad, *inputs)
    expected = forward(*exact), *backward(grad.float(), *exact)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y.to(x.dtype))
    assert found[0].dtype == torch.bfloat16


def test_document_reset_takes_away_what_came_from_before() -> None:
    torch.manual_seed(0)
    D, C, log = 2, 11, random_modes(2, 4)
    y, u, scale = randn(D, 3, C), randn(D, 3, C), complex_randn(D, 4)
    row, start, stop = (torch.tensor(i) for i in ([0, 0, 2], [2, 7, 5], [7, 11, 11]))
    expected = y.detach().clone()
    for n, begin, end in zip(row, start, stop, strict=True):
        for t in range(begin, end):
            for s in range(begin):
                tap = (scale * log.exp() ** (t - s - 1)).sum(-1).real
                expected[:, n, t] -= tap * u[:, n, s]
    found = document_reset(y, u, scale, mode_powers(log, C, C128), row, start, stop)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("block_elements", [1, 1 << 16])
@pytest.mark.parametrize("packed", [False, True])
def test_recall_equals_its_recurrence(
    packed: bool, block_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.blocks.BLOCK_ELEMENTS", block_elements)
    torch.manual_seed(0)
    N, H, C = 2, 3, 9
    q, k, v = randn(N, H, C, 4), randn(N, H, C, 4), randn(N, H, C, 5)
    log_decay = -torch.rand(N, H, C, dtype=torch.float64)
    segment = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2]]).expand(N, -1) if packed else None
    total = log_decay.cumsum(-1)
    state = q.new_zeros(N, H, 4, 5)
    expected = []
    for t in range(C):
        state = log_decay[..., t, None, None].exp() * state
        if segment is not None and t > 0 and segment[0, t] != segment[0, t - 1]:
            state = torch.zeros_like(state)
        state = state + k[..., t, :, None] * v[..., t, None, :]
        expected.append(torch.einsum("nhk,nhkv->nhv", q[..., t, :], state))
    y = recall_local(q, k, v, total, segment)
    torch.testing.assert_close(y, torch.stack(expected, dim=2))
    if not packed:
        weight = (total[..., -1:] - total).exp()
        torch.testing.assert_close(recall_state(k, v, weight), state)
        read = torch.einsum("nhck,nhkv->nhcv", q, state) * weight[..., None]
        torch.testing.assert_close(recall_read(q, weight, state, v), v + read)


@pytest.mark.parametrize("block_elements", [1, 1 << 16])
@pytest.mark.parametrize("C", [1, 5, 16, 21, 70])
def test_delta_write_solves_its_system(
    C: int, block_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.blocks.BLOCK_ELEMENTS", block_elements)
    torch.manual_seed(0)
    N, H = 3, 2
    k, e, u = F.normalize(randn(N, H, C, 4), dim=-1), randn(N, H, C, 4), randn(N, H, C, 5)
    total, read = (-0.1 * torch.rand(N, H, C).double()).cumsum(-1), randn(N, H, C)
    segment = (torch.rand(N, C) < 0.2).cumsum(1)
    written, lost = delta_write(k, e, u, total, read, segment)
    for x, right in ((written, u), (lost, read[..., None] * e)):
        expected: list[Tensor] = []
        for t in range(C):
            value = right[..., t, :]
            for s in range(t):
                weight = (total[..., t] - total[..., s]).exp() * (e[..., t, :] * k[..., s, :]).sum(
                    -1
                )
                same = (segment[:, t] == segment[:, s])[:, None]
                value = value - (weight * same)[..., None] * expected[s]
            expected.append(value)
        torch.testing.assert_close(x, torch.stack(expected, dim=2))


def test_the_inverse_of_equal_keys_keeps_its_digits() -> None:
    """Equal keys and strength 2: the inverse is 1 and -2, 2, -2, ...; powers of A are huge."""
    C = 64
    a = torch.full((1, 1, C, C), 2.0).tril(-1)
    lag = torch.arange(C)[:, None] - torch.arange(C)
    expected = torch.where(lag > 0, -2.0 * (-1.0) ** (lag - 1), (lag == 0).float())
    assert torch.equal(invert(a)[0, 0], expected)


def test_delta_in_half_precision_is_float32_rounded() -> None:
    torch.manual_seed(0)
    k, e, u = (0.5 * torch.randn(3, 2, 3, 8, 4)).bfloat16()
    total, read = -torch.rand(2, 3, 8).cumsum(-1), torch.rand(2, 3, 8)
    found = delta_write(k, e, u, total, read)
    expected = delta_write(k.float(), e.float(), u.float(), total, read)
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == torch.bfloat16
        torch.testing.assert_close(x, y.to(x.dtype))


def test_norm_gate_equals_torch() -> None:
    torch.manual_seed(0)
    # more than one block of rows
    x, gate, scale = randn(3, 50, 1200), randn(3, 50, 1200), randn(1200)
    normal = F.rms_norm(x.unflatten(-1, (3, 400)), (400,), eps=1e-6).flatten(-2)
    torch.testing.assert_close(norm_gate(x, gate, scale, 3, 1e-6), normal * scale * F.silu(gate))


def test_spectral_gate_equals_its_definition() -> None:
    torch.manual_seed(0)
    R, H, N, M = 2, 3, 4, 5
    spectrum = complex_randn(R, H, N, M)
    real = {"magnitude_RHM": torch.rand(R, H, M, dtype=torch.float64) + 0.3}
    parts = GateParts(
        **real,
        gain_RHM=randn(R, H, M),
        phase_RHM=randn(R, H, M),
        limit_RH=torch.full((R, H), 0.5, dtype=torch.float64),
        rest_H=randn(H),
        keep_RHM=randn(R, H, M),
    )
    energy = spectral_energy(spectrum)
    torch.testing.assert_close(energy, spectrum.abs().square().mean(2))
    gate = gate_values(parts)
    threshold = torch.relu(1 - 0.5 / parts.magnitude_RHM)
    assert (threshold == 0).any()
    assert (threshold > 0).any()
    rest = parts.rest_H[:, None]
    turn = torch.exp(1j * parts.phase_RHM)
    expected = parts.keep_RHM * ((1 - rest) * parts.gain_RHM * threshold * turn + rest)
    torch.testing.assert_close(gate, expected)
    torch.testing.assert_close(gate_spectrum(spectrum, gate), spectrum * gate[:, :, None])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: modal_state(randn(3, 2, 8), mode_powers(random_modes(2, 4), 8, C128)), "D = 2"),
        (lambda: modal_state(randn(2, 2, 99), mode_powers(random_modes(2, 4), 8, C128)), "got 99"),
        (
            lambda: modal_state(
                randn(2, 2, 8), mode_powers(random_modes(2, 4), 8, C128), torch.ones(2, 8)
            ),
            "torch.bool",
        ),
        (
            lambda: modal_read(
                complex_randn(2, 2, 5), mode_powers(random_modes(2, 4), 8, C128), randn(2, 2, 8)
            ),
            r"expected states \(2, 2, 4\)",
        ),
        (lambda: norm_gate(randn(2, 9), randn(2, 9), randn(9), 2, 1e-6), "divisor of D"),
        (lambda: norm_gate(randn(2, 9), randn(2, 8), randn(9), 3, 1e-6), r"\(2, 8\)"),
        (
            lambda: norm_gate(randn(2, 9).to_sparse(), randn(2, 9), randn(9), 3, 1e-6),
            "with strides",
        ),
        (lambda: norm_gate(randn(2, 9), randn(2, 9).to("meta"), randn(9), 3, 1e-6), "on meta"),
        (
            lambda: recall_state(randn(1, 2, 3, 4), randn(1, 2, 4, 4), randn(1, 2, 3)),
            "expected vectors",
        ),
        (lambda: recall_state(randn(1, 2, 3, 4), randn(1, 2, 3, 4), randn(1, 2, 4)), "the last"),
        (
            lambda: recall_state(randn(1, 2, 3, 4), randn(1, 2, 3, 4), randn(1, 2, 3).float()),
            "for the last torch.float64",
        ),
        (lambda: spectral_energy(randn(1, 2, 3, 4)), "complex spectrum"),
        (
            lambda: delta_write(*(randn(1, 2, 3, i) for i in (4, 5, 4)), *(randn(1, 2, 3),) * 2),
            "k and e",
        ),
        (
            lambda: delta_write(*(randn(1, 2, 3, 4),) * 3, randn(1, 2, 3), randn(1, 2, 4)),
            "total and read",
        ),
        (
            lambda: delta_write(
                *(randn(1, 2, 3, 4),) * 3, *(randn(1, 2, 3),) * 2, torch.zeros(2, 3)
            ),
            r"segments \(1, 3\)",
        ),
        (
            lambda: delta_write(*(randn(1, 2, 3, 4),) * 3, *(randn(1, 2, 3).float(),) * 2),
            "of torch.float64",
        ),
    ],
)
def test_bad_input_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_a_graph_of_the_ops_is_differentiable_in_lambda() -> None:
    """Gradients reach λ through every op, as through the powers written out."""
    torch.manual_seed(0)
    log, u = random_modes(2, 4), randn(2, 3, 16)

    def loss(state: Tensor, read: Tensor) -> Tensor:
        return state.abs().square().sum() + read.square().sum()

    powers = mode_powers(log, 16, C128)
    state = modal_state(u, powers)
    ours = torch.autograd.grad(loss(state, modal_read(state, powers, u)), log)[0]
    table = log.exp()[..., None] ** torch.arange(16)
    state = torch.einsum("dnc,dmc->dnm", u.to(C128), table.flip(-1))
    read = u + torch.einsum("dnm,dmc->dnc", state, table).real
    torch.testing.assert_close(ours, torch.autograd.grad(loss(state, read), log)[0])
