"""Every Triton kernel against its reference in float64: interpreted on the CPU, or on a GPU.

Run by `test_lanes.py` in a process of its own with TRITON_INTERPRET=1: an access out of bounds ends
the process. With RESONANCE_TEST_DEVICE=cuda (`python -m tests.gpu`) a GPU runs and tunes them.
Uninitialised memory is NaN, so what a kernel does not write is seen.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from kernels.delta.reference import delta_write as reference_delta_write
from kernels.dispatch import NotServedError
from kernels.modal.reference import mode_powers
from kernels.op_info import op_names
from kernels.recall_qkv.reference import recall_inputs as reference_recall_inputs
from tests.kernels.comparison import DEVICE, DTYPES, check, strided, wide


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.manual_seed(0)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


def _powers(D: int, M: int, C: int) -> tuple[Tensor, Tensor]:
    alpha, omega = torch.rand(2, D, M, dtype=torch.float64)
    powers = mode_powers(torch.complex(-0.1 * alpha, 3.0 * omega), C, torch.complex64)
    return powers.fine_DfM, powers.coarse_DsM


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("N", "C"),
    [(1, 1), (3, 7), (1, 64), (5, 100), (2, 513), (1, 1024), (9, 1024)]
    + [pytest.param(2, C, marks=pytest.mark.slow) for C in (512, 2048, 3000, 4096, 8192)],
)
def test_fft_conv(N: int, C: int, dtype: torch.dtype) -> None:
    if dtype == torch.float32 and C > 2048:
        with pytest.raises(NotServedError, match="does not fit into registers"):
            check("fft_conv", "fft_conv", torch.ones(1, N, C), torch.ones(1, C))
        return
    u, grad = (strided(2, N, C, dtype=dtype) for _ in range(2))
    h = torch.randn(2, C) / C**0.5
    check("fft_conv", "fft_conv", u, h)
    check("fft_conv", "fft_conv_backward", grad, u, h)


def test_fft_conv_serves_no_longer_chunks() -> None:
    from kernels.fft_conv.triton import fft_conv

    with pytest.raises(NotServedError, match="at most 8192 tokens, got 8193"):
        fft_conv(torch.ones(1, 1, 8193), torch.ones(1, 8193))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("N", "C", "M"), [(1, 1, 1), (3, 65, 5), (70, 64, 16)])
def test_modal(N: int, C: int, M: int, masked: bool, dtype: torch.dtype) -> None:
    tables, u = _powers(2, M, C), strided(2, N, C, dtype=dtype)
    state = torch.randn(2, M, N, dtype=torch.complex64).mT
    mask = (torch.rand(N, C) > 0.4).index_fill(1, torch.tensor([0]), True) if masked else None
    check("modal", "modal_state", u, *tables, mask)
    check("modal", "modal_state_backward", state, u, *tables, mask)
    check("modal", "modal_read", state, *tables, u, mask)
    check("modal", "modal_read_backward", u, state, *tables, mask)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_document_reset(dtype: torch.dtype) -> None:
    D, N, C, M = 2, 4, 67, 5
    borders = tuple(torch.tensor(i) for i in ([0, 0, 2], [2, 66, 65], [66, 67, 67]))
    y, u, grad = (strided(D, N, C, dtype=dtype) for _ in range(3))
    scale = torch.randn(D, M, dtype=torch.complex64)
    check("document_reset", "document_reset", y, u, scale, *_powers(D, M, C), *borders)
    check("document_reset", "document_reset_backward", grad, u, scale, *_powers(D, M, C), *borders)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("N", "H", "C", "K", "V"), [(1, 1, 2, 8, 6), (2, 3, 7, 6, 5), (2, 2, 70, 16, 33)]
)
def test_recall(N: int, H: int, C: int, K: int, V: int, dtype: torch.dtype) -> None:
    q, k = (strided(N, H, C, K, dtype=dtype) for _ in range(2))
    v, grad = (strided(N, H, C, V, dtype=dtype) for _ in range(2))
    weight, state = torch.rand(N, C, H).mT, strided(N, H, K, V)
    check("recall", "recall_state", k, v, weight)
    check("recall", "recall_state_backward", state, k, v, weight)
    check("recall", "recall_read", q, weight, state, v)
    check("recall", "recall_read_backward", grad, q, weight, state)
    total = (-0.3 * torch.rand(N, H, C)).cumsum(-1)
    for segment in (None, (torch.rand(N, C) < 0.1).cumsum(1)):
        check("recall", "recall_local", q, k, v, total, segment)
        check("recall", "recall_local_backward", grad, q, k, v, total, segment)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("B", "T", "H", "K", "C"), [(1, 1, 1, 2, 1), (2, 7, 3, 6, 4), (1, 130, 2, 64, 64)]
)
def test_recall_qkv(B: int, T: int, H: int, K: int, C: int, dtype: torch.dtype) -> None:
    angle = torch.rand(T, K // 2)
    phases = [angle.cos(), angle.sin()]
    # in one layout no channels are neighbours, in the other tokens lie apart
    wider = torch.randn(B, T, 3, H * K + 5).to(dtype)
    for qkv in (strided(B, T, 3, H * K, dtype=dtype), wider[..., 5:]):
        check("recall_qkv", "recall_inputs", qkv, *phases, H, C)
        wide = (i.double() for i in (qkv, *phases))
        q, k, _, *inverses = reference_recall_inputs(*wide, H, C)
        grads = [strided(*q.shape, dtype=dtype) for _ in range(3)]
        turned = (q.to(dtype), k.to(dtype), *(i.float() for i in inverses))
        check("recall_qkv", "recall_inputs_backward", *grads, qkv, *phases, *turned)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("R", "H", "K"), [(1, 1, 5), (3, 5, 24), (700, 2, 64)])
def test_norm_gate(R: int, H: int, K: int, dtype: torch.dtype) -> None:
    grad, x, gate = (strided(R, H * K, dtype=dtype) for _ in range(3))
    scale = torch.randn(H * K)
    check("norm_gate", "norm_gate", x, gate, scale, H, 1e-6)
    inverse = x.float().unflatten(-1, (H, K)).square().mean(-1).add(1e-6).rsqrt()
    check("norm_gate", "norm_gate_backward", grad, x, gate, scale, inverse)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("B", "T", "D", "W"), [(1, 1, 1, 4), (3, 2, 5, 4), (2, 130, 7, 3), (1, 64, 65, 1)]
)
def test_short_conv(B: int, T: int, D: int, W: int, dtype: torch.dtype) -> None:
    grad, past = (strided(B, i, D, dtype=dtype) for i in (T, W - 1))
    taps = strided(W, D)
    # in one layout no channels are neighbours, in the other tokens lie apart
    for x in (strided(B, T, D, dtype=dtype), torch.randn(B, T, 2 * D).to(dtype)[..., D:]):
        for reach in (None, torch.randint(0, W + 1, (B, T))):
            check("short_conv", "short_conv", x, past, taps, reach)
            check("short_conv", "short_conv_backward", grad, x, past, taps, reach)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("N", "H", "C", "K", "V"), [(1, 1, 1, 8, 6), (2, 3, 7, 6, 5), (2, 2, 50, 16, 33)]
)
def test_delta(N: int, H: int, C: int, K: int, V: int, dtype: torch.dtype) -> None:
    k, e = (nn.functional.normalize(strided(N, H, C, K), dim=-1).to(dtype) for _ in range(2))
    u, grad = (strided(N, H, C, V, dtype=dtype) for _ in range(2))
    total, read = (-0.3 * torch.rand(N, H, C)).cumsum(-1), torch.rand(N, C, H).mT
    for segment in (None, (torch.rand(N, C) < 0.1).cumsum(1)):
        inputs = (k, e, u, total, read, segment)
        check("delta", "delta_write", *inputs)
        wide = reference_delta_write(*(wide(i) for i in inputs))
        written, lost, inverse = (
            i.to(d) for i, d in zip(wide, (dtype, dtype, total.dtype), strict=True)
        )
        inputs = (grad, e, k, e, total, read, segment, written, lost, inverse)
        check("delta", "delta_write_backward", *inputs)


@pytest.mark.parametrize(
    ("B", "J", "H", "K", "V"), [(1, 1, 1, 1, 1), (2, 5, 3, 7, 6), (1, 3, 2, 64, 40)]
)
def test_matrix_scan(B: int, J: int, H: int, K: int, V: int) -> None:
    transition = torch.randn(B, J, H, K, K).mT / K**0.5
    update, grad = (torch.randn(B, J, H, V, K).mT for _ in range(2))
    initial, last = (torch.randn(B, H, V, K).mT for _ in range(2))
    check("matrix_scan", "matrix_scan", transition, update, initial)
    check("matrix_scan", "matrix_scan_backward", grad, last, transition, update)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize(("B", "J", "N", "F"), [(1, 1, 1, 1), (2, 5, 3, 7), (1, 3, 300, 1)])
def test_state_scan(B: int, J: int, N: int, F: int, dtype: torch.dtype) -> None:
    decay = torch.randn(B, N, J, dtype=dtype).mT / 2
    update, grad = (torch.randn(B, J, F, N, dtype=dtype).mT for _ in range(2))
    initial, last = (torch.randn(B, F, N, dtype=dtype).mT for _ in range(2))
    check("state_scan", "state_scan", decay, update, initial)
    check("state_scan", "state_scan_backward", grad, last, decay, update)


@pytest.mark.parametrize(("R", "H", "N", "M"), [(1, 1, 1, 3), (3, 2, 33, 7), (2, 1, 4, 70)])
def test_spectral_gate(R: int, H: int, N: int, M: int) -> None:
    spectrum, grad = (torch.randn(R, H, M, N, dtype=torch.complex64).mT for _ in range(2))
    gate = torch.randn(R, H, M, dtype=torch.complex64)
    check("spectral_gate", "spectral_energy", spectrum)
    check("spectral_gate", "spectral_energy_backward", gate.real, spectrum)
    check("spectral_gate", "gate_spectrum", spectrum, gate)
    check("spectral_gate", "gate_spectrum_backward", grad, spectrum, gate)
    magnitude = strided(R, H, M).abs() + 0.4
    rest = (strided(R, H, M), strided(R, H, M), torch.full((R, H), 0.5), torch.rand(H) + 0.1)
    parts = (magnitude, *rest, strided(R, H, M))
    check("spectral_gate", "gate_values", *parts)
    check("spectral_gate", "gate_values_backward", gate, *parts)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("N", "D", "V", "z_weight"), [(1, 8, 5, 0.0), (9, 4, 9, 0.01), (3, 8, 4100, 0.01)]
)
def test_linear_cross_entropy(
    N: int, D: int, V: int, z_weight: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # several blocks, the last one incomplete
    monkeypatch.setattr("kernels.linear_cross_entropy.triton.BLOCK", 4)
    x, weight = strided(N, D, dtype=dtype), strided(V, D, dtype=dtype)
    labels = torch.randint(0, V, (N,))
    labels[1:3] = -100
    check("linear_cross_entropy", "linear_cross_entropy", x, weight, labels, True, z_weight)


@pytest.mark.parametrize("op", op_names())
def test_every_op_is_compared(op: str) -> None:
    assert callable(globals()[f"test_{op}"])


def test_the_operators_take_the_kernels_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch sends CPU tensors to the interpreter, and autograd through the kernels.

    A GPU's tensors go to the kernels by themselves.
    """
    from kernels.fft_conv import triton as kernels
    from kernels.fft_conv.op import fft_conv

    calls = []
    launch = kernels.fft_conv
    u, h = (torch.randn(s, device=DEVICE, requires_grad=True) for s in ((1, 2, 8), (1, 8)))
    monkeypatch.setattr(kernels, "fft_conv", lambda *a: calls.append(1) or launch(*a))
    automatic = 1 if DEVICE.type == "cpu" else 2
    for choice, expected in (("reference", 0), ("triton", 1), ("auto", automatic)):
        monkeypatch.setenv("RESONANCE_KERNELS", choice)
        fft_conv(u, h).sum().backward()
        assert len(calls) == expected


def test_a_chunk_without_kernel_falls_back_with_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kernels.fft_conv.op import fft_conv

    monkeypatch.setenv("RESONANCE_KERNELS", "triton")
    u, h = torch.randn(1, 1, 9000, device=DEVICE), torch.randn(1, 9000, device=DEVICE)
    with pytest.warns(RuntimeWarning, match="at most 8192 tokens, got 9000; the reference"):
        y = fft_conv(u, h)
    # warnings are errors here: a second one would end the test
    torch.testing.assert_close(fft_conv(u, h), y)


def test_mutations_of_a_kernel_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane's own check fails when a table is slightly wrong."""
    from kernels.fft_conv import triton_monarch as monarch

    right: Callable[..., tuple[Tensor, ...]] = monarch.tables
    monkeypatch.setattr(monarch, "tables", lambda *a: tuple(t * (1 + 1e-5) for t in right(*a)))
    with pytest.raises(AssertionError, match="at most 5e-07"):
        check("fft_conv", "fft_conv", torch.randn(1, 1, 1024), torch.randn(1, 1024))
