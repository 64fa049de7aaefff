"""Bytes and FLOPs per element of every op, fused and unfused, by count.

Bytes of the fused ops are those of the tensors that their launches receive; bytes of the unfused
ones are counted operator by operator while plain PyTorch runs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernels.aot_compile import launches
from kernels.fft_conv import triton as fft_conv
from kernels.modal import triton as modes
from kernels.modal.reference import mode_powers
from kernels.norm_gate import triton as norm_gate
from kernels.recall import triton as recall
from kernels.short_conv import triton as short_conv
from kernels.spectral_gate import triton as spectral_gate
from kernels.state_scan import triton as state_scan

# an H100's bytes/s and float16 FLOP/s
BANDWIDTH, PEAK = 3.35e12, 990e12
VIEWS = {
    "_conj", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "empty",
    "empty_like", "expand", "permute", "select", "slice", "split", "squeeze", "t", "transpose",
    "unsqueeze", "view", "view_as_complex", "view_as_real",
}  # fmt: skip


class TrafficMode(TorchDispatchMode):
    """Sum of the bytes of every operator's inputs and outputs; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        result = function(*args, **(kwargs or {}))
        if function.__name__.split(".")[0] not in VIEWS:
            tensors = [i for i in tree_leaves((args, kwargs, result)) if isinstance(i, Tensor)]
            self.num_bytes += sum(i.numel() * i.element_size() for i in tensors)
        return result


class Row(NamedTuple):
    """An op: its plain PyTorch form, the launches of its fused form, and FLOPs per element."""

    name: str
    num_elements: int
    plain: Callable[[], Any]
    fused: Callable[[], list[Any]]
    flops: float


def plain_convolution(u: Tensor, h: Tensor) -> Tensor:
    """A causal convolution of chunks by torch.fft, in float32."""
    C = u.shape[-1]
    spectrum = torch.fft.rfft(u.float(), n=2 * C) * torch.fft.rfft(h.float(), n=2 * C)[:, None]
    return torch.fft.irfft(spectrum, n=2 * C)[..., :C].to(u.dtype)


def convolution_flops(C: int) -> float:
    """FLOPs per element of a causal convolution of chunks: Toeplitz up to 512, then Monarch."""
    N1 = 1 << ((C - 1).bit_length() + 1) // 2
    return C + 64.0 if C <= 512 else 8.0 * N1 + 16.0 * C / N1


def rows(chunks: Sequence[int]) -> list[Row]:
    """All ops at the sizes of a layer; forward passes in float16 or complex64.

    Args:
        chunks: Chunk lengths of the causal convolution.
    """
    half, table_rows = torch.float16, []
    for C in chunks:
        N = 16_384 // C + 16
        u, h = torch.zeros(4, N, C, dtype=half), torch.zeros(4, C, dtype=half)
        table_rows.append(
            Row(
                f"fft_conv, chunk {C:,}",
                u.numel(),
                lambda u=u, h=h: plain_convolution(u, h),
                lambda u=u, h=h: launches(fft_conv.fft_conv, u, h),
                convolution_flops(C),
            )
        )
    C, M = 1024, 16
    log = torch.complex(-torch.rand(4, M), torch.rand(4, M)).to(torch.complex128)
    _, fine, coarse = mode_powers(log, C, torch.complex64)
    table = (coarse[:, :, None] * fine[:, None]).flatten(1, 2)
    u, state = torch.zeros(4, 256, C, dtype=half), torch.zeros(4, 256, M, dtype=torch.complex64)
    (x, z), scale = torch.zeros(2, 4096, 512, dtype=half), torch.zeros(512, dtype=half)
    q, k, v = torch.zeros(3, 64, 8, 64, 64, dtype=half)
    total = torch.zeros(64, 8, 64)
    memory = torch.zeros(64, 8, 64, 64)
    signal, taps = torch.zeros(1, 4099, 512, dtype=half), torch.zeros(4, 512, dtype=half)
    spectrum = torch.zeros(64, 8, 64, M, dtype=torch.complex64)
    gate = torch.zeros(64, 8, M, dtype=torch.complex64)
    decay, update = torch.zeros(1, 64, 8192).cfloat(), torch.zeros(1, 64, 8192, 1).cfloat()
    mask = torch.ones(64, 64, dtype=torch.bool).tril()

    def plain_local() -> Tensor:
        lag = total[..., :, None] - total[..., None, :]
        weight = lag.masked_fill(~mask, float("-inf")).exp()
        return ((q @ k.mT) * weight).to(half) @ v

    def plain_scan() -> Tensor:
        s, incoming = torch.zeros(1, 8192, 1).cfloat(), []
        for j in range(64):
            incoming.append(s)
            s = decay[:, j, :, None] * s + update[:, j]
        return torch.stack(incoming, dim=1)

    def plain_norm() -> Tensor:
        heads = x.unflatten(-1, (8, 64)).float()
        heads = heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + 1e-6)
        return heads.flatten(-2).to(half) * scale * F.silu(z)

    table_rows += [
        Row(
            "modal_state", u.numel(),
            lambda: torch.einsum("dnc,dcm->dnm", u.to(torch.complex64), table.flip(1)),
            lambda: launches(modes.modal_state, u, fine, coarse, None), 4.0 * M,
        ),
        Row(
            "modal_read", u.numel(),
            lambda: u + torch.einsum("dnm,dcm->dnc", state, table).real.to(half),
            lambda: launches(modes.modal_read, state, fine, coarse, u, None), 4.0 * M,
        ),
        Row(
            "recall_state", q.numel(),
            lambda: (k * total[..., None].to(half)).mT @ v,
            lambda: launches(recall.recall_state, k, v, total), 2.0 * 64,
        ),
        Row(
            "recall_read", q.numel(),
            lambda: v + (q @ memory.to(half)) * total[..., None].to(half),
            lambda: launches(recall.recall_read, q, total, memory, v), 2.0 * 64,
        ),
        Row(
            "recall_local", q.numel(), plain_local,
            lambda: launches(recall.recall_local, q, k, v, total, None), 4.0 * 64,
        ),
        Row(
            "norm_gate", x.numel(), plain_norm,
            lambda: launches(norm_gate.norm_gate, x, z, scale, 8, 1e-6), 12.0,
        ),
        Row(
            "short_conv", x.numel(),
            lambda: sum(signal[:, w : w + 4096] * taps[w] for w in range(4)),
            lambda: launches(short_conv.short_conv, signal[:, 3:], signal[:, :3], taps, None), 8.0,
        ),
        Row(
            "spectral_energy", spectrum.numel(),
            lambda: spectrum.abs().square().mean(2),
            lambda: launches(spectral_gate.spectral_energy, spectrum), 4.0,
        ),
        Row(
            "gate_spectrum", spectrum.numel(),
            lambda: spectrum * gate[:, :, None],
            lambda: launches(spectral_gate.gate_spectrum, spectrum, gate), 6.0,
        ),
        Row(
            "state_scan", update.numel(), plain_scan,
            lambda: launches(state_scan.state_scan, decay, update, update[:, 0]), 8.0,
        ),
    ]  # fmt: skip
    return table_rows


def head_bound(C: int) -> float:
    """Lower bound of an H100 in seconds per element of convolution heads with chunks of C tokens.

    Forward passes of the convolution, of both products with modes and of the scan over chunks.
    """
    D, N, M = 4, max(32_768 // C, 2), 16
    log = torch.complex(-torch.rand(D, M), torch.rand(D, M)).to(torch.complex128)
    _, fine, coarse = mode_powers(log, C, torch.complex64)
    u, h = torch.zeros(D, N, C, dtype=torch.float16), torch.zeros(D, C)
    state, decay = torch.zeros(D, N, M).cfloat(), torch.zeros(1, N, D * M).cfloat()
    update = decay[..., None]
    parts = (
        (launches(fft_conv.fft_conv, u, h), convolution_flops(C)),
        (launches(modes.modal_state, u, fine, coarse, None), 4.0 * M),
        (launches(modes.modal_read, state, fine, coarse, u, None), 4.0 * M),
        (launches(state_scan.state_scan, decay, update, update[:, 0]), 8.0 * M / C),
    )
    return sum(
        max(launch_bytes(part) / u.numel() / BANDWIDTH, flops / PEAK) for part, flops in parts
    )


def launch_bytes(kernel_launches: list[Any]) -> int:
    """Bytes of all tensors that launches receive, each read or written once."""
    total = 0
    for launch in kernel_launches:
        # one buffer may stand in for an argument that is not read
        unique = {i.data_ptr(): i for i in launch.arguments.values() if isinstance(i, Tensor)}
        total += sum(i.numel() * i.element_size() for i in unique.values())
    return total
