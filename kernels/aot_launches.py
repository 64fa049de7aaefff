"""Every launch of every op at the sizes of real models, for ahead-of-time compilation.

Shape letters: as in each op; sizes are those of a layer of 64-channel heads and 16 modes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.aot_compile import Launch, launches
from kernels.document_reset import triton as document_reset
from kernels.fft_conv import triton as fft_conv
from kernels.linear_cross_entropy import triton as linear_cross_entropy
from kernels.modal import triton as modes
from kernels.modal.reference import mode_powers
from kernels.norm_gate import triton as norm_gate
from kernels.recall import triton as recall
from kernels.recall_qkv import triton as recall_inputs
from kernels.short_conv import triton as short_conv
from kernels.spectral_gate import triton as spectral_gate
from kernels.state_scan import triton as state_scan

CHUNKS = (64, 512, 1024, 2048, 4096, 8192)
# float32 tiles of Monarch transforms fit into registers no further
CHUNKS_FLOAT32 = (64, 512, 1024, 2048)


def convolutions(dtype: torch.dtype) -> list[tuple[str, Launch]]:
    """Launches of `fft_conv`, forward and backward, with the chunk in the name."""
    found = []
    for C in CHUNKS_FLOAT32 if dtype == torch.float32 else CHUNKS:
        u, h = torch.zeros(2, 16, C, dtype=dtype), torch.zeros(2, C, dtype=dtype)
        recorded = launches(fft_conv.fft_conv_backward, u, u, h)
        # forward and signal's gradient differ in the sign of a plane
        found += [(f"{launch.name} {C}", launch) for launch in recorded]
    return found


def _powers(C: int) -> tuple[Tensor, Tensor]:
    powers = mode_powers(torch.zeros(2, 16, dtype=torch.complex128), C, torch.complex64)
    return powers.fine_DfM, powers.coarse_DsM


def others(dtype: torch.dtype) -> list[tuple[str, Launch]]:
    """Launches of all other ops that move signals of this dtype, forward and backward."""
    tables, C = _powers(1024), 1024
    u, mask = torch.zeros(2, 64, C, dtype=dtype), torch.ones(64, C, dtype=torch.bool)
    state, scale = (
        torch.zeros(2, 64, 16, dtype=torch.complex64),
        torch.zeros(2, 16, dtype=torch.complex64),
    )
    borders = (torch.tensor([0, 1]), torch.tensor([5, 6]), torch.tensor([C, C]))
    q, total = torch.zeros(2, 4, 64, 64, dtype=dtype), torch.zeros(2, 4, 64)
    segment, memory = torch.zeros(2, 64, dtype=torch.int64), torch.zeros(2, 4, 64, 64)
    x, vector = torch.zeros(128, 512, dtype=dtype), torch.zeros(512)
    qkv, phases = torch.zeros(2, 128, 3, 512, dtype=dtype), torch.zeros(2, 128, 32, dtype=dtype)
    heads, inverses = torch.zeros(3, 4, 8, 64, 64, dtype=dtype), torch.zeros(2, 4, 8, 64)
    signal, past = (torch.zeros(2, T, 512, dtype=dtype) for T in (64, 3))
    taps = torch.zeros(4, 512, dtype=dtype)
    reach = torch.zeros(2, 64, dtype=torch.int64)
    weight, labels = torch.zeros(32768, 512, dtype=dtype), torch.zeros(128, dtype=torch.int64)
    cases = [
        (modes.modal_state, u, *tables, mask),
        (modes.modal_state_backward, state, u, *tables, mask),
        (modes.modal_read, state, *tables, u, mask),
        (modes.modal_read_backward, u, state, *tables, mask),
        (document_reset.document_reset, u, u, scale, *tables, *borders),
        (document_reset.document_reset_backward, u, u, scale, *tables, *borders),
        (recall.recall_state, q, q, total),
        (recall.recall_state_backward, memory, q, q, total),
        (recall.recall_read, q, total, memory, q),
        (recall.recall_read_backward, q, q, total, memory),
        (recall.recall_local, q, q, q, total, segment),
        (recall.recall_local_backward, q, q, q, q, total, segment),
        (recall_inputs.recall_inputs, qkv, *phases, 8, 64),
        (recall_inputs.recall_inputs_backward, *heads, qkv, *phases, *heads[:2], *inverses),
        (norm_gate.norm_gate, x, x, vector, 8, 1e-6),
        (norm_gate.norm_gate_backward, x, x, x, vector, torch.zeros(128, 8)),
        (short_conv.short_conv, signal, past, taps, reach),
        (short_conv.short_conv_backward, signal, signal, past, taps, reach),
        (linear_cross_entropy.linear_cross_entropy, x, weight, labels, True),
    ]
    return _named(cases)


def spectra() -> list[tuple[str, Launch]]:
    """Launches of the ops on spectra and states, which are complex64 or float32."""
    spectrum, gate = (
        torch.zeros(4, 8, 64, 16, dtype=torch.complex64),
        torch.zeros(4, 8, 16, dtype=torch.complex64),
    )
    real, limit, rest = torch.zeros(4, 8, 16), torch.zeros(4, 8), torch.zeros(8)
    parts = (real, real, real, limit, rest, real)
    scans = [
        (torch.zeros(2, 32, 512, dtype=dtype), torch.zeros(2, 32, 512, F, dtype=dtype),
         torch.zeros(2, 512, F, dtype=dtype))
        for dtype, F in ((torch.complex64, 1), (torch.float32, 16))
    ]  # fmt: skip
    return _named(
        [
            (spectral_gate.spectral_energy, spectrum),
            (spectral_gate.spectral_energy_backward, real, spectrum),
            (spectral_gate.gate_spectrum, spectrum, gate),
            (spectral_gate.gate_spectrum_backward, spectrum, spectrum, gate),
            (spectral_gate.gate_values, *parts),
            (spectral_gate.gate_values_backward, gate, *parts),
            *((state_scan.state_scan, *scan) for scan in scans),
            *((state_scan.state_scan_backward, u, s, d, u) for d, u, s in scans),
        ]
    )


def _named(cases: Sequence[tuple[Any, ...]]) -> list[tuple[str, Launch]]:
    """Name -> launch, of launches that would be compiled differently."""
    found = {}
    for function, *arguments in cases:
        for launch in launches(function, *arguments):
            flags = [
                name.lower()
                for name, value in launch.arguments.items()
                if name.isupper() and isinstance(value, bool) and value
            ]
            found[" ".join([launch.name, *flags])] = launch
    return list(found.items())
