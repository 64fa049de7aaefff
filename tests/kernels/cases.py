"""Small float64 arguments for every op, for gradcheck and torch's operator checks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.document_reset.op import document_reset
from kernels.modal.op import modal_read, modal_state
from kernels.modal.reference import mode_powers
from kernels.norm_gate.op import norm_gate
from kernels.recall.op import recall_local, recall_read, recall_state
from kernels.recall_qkv.op import recall_inputs
from kernels.spectral_gate.op import gate_spectrum, gate_values, spectral_energy
from kernels.spectral_gate.reference import GateParts

# (function, its differentiable arguments, arguments of the operator itself)
Case = tuple[Callable[..., Any], tuple[Tensor, ...], tuple[Any, ...]]
C128 = torch.complex128


def randn(*shape: int) -> Tensor:
    """Normal, float64, differentiable."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def complex_randn(*shape: int) -> Tensor:
    """Normal, complex128, differentiable."""
    return torch.randn(*shape, dtype=C128, requires_grad=True)


def log_lambda(D: int, M: int) -> Tensor:
    """Slowly fading modes of any frequency."""
    alpha, omega = torch.rand(2, D, M, dtype=torch.float64)
    return torch.complex(-0.2 * alpha, 3.0 * omega).requires_grad_()


# more than the 2 M numbers of a state: the table of powers is turned and weighted, not the signal
MANY_ROWS = 8


def _modal_state(num_rows: int = 3) -> Case:
    log, u, mask = log_lambda(2, 3), randn(2, num_rows, 7), torch.rand(num_rows, 7) > 0.4
    return (
        lambda u, log: modal_state(u, mode_powers(log, 7, C128), mask),
        (u, log),
        (u, *mode_powers(log, 7, C128), mask),
    )


def _modal_read(num_rows: int = 3) -> Case:
    log, rest, mask = log_lambda(2, 3), randn(2, num_rows, 7), torch.rand(num_rows, 7) > 0.4
    state = complex_randn(2, num_rows, 3)
    return (
        lambda state, log, rest: modal_read(state, mode_powers(log, 7, C128), rest, mask),
        (state, log, rest),
        (state, *mode_powers(log, 7, C128), rest, mask),
    )


def _document_reset() -> Case:
    borders = tuple(torch.tensor(i) for i in ([0, 0, 2], [2, 5, 3], [5, 7, 7]))
    y, u, scale, log = randn(2, 3, 7), randn(2, 3, 7), complex_randn(2, 3), log_lambda(2, 3)
    return (
        lambda y, u, scale, log: document_reset(y, u, scale, mode_powers(log, 7, C128), *borders),
        (y, u, scale, log),
        (y, u, scale, *mode_powers(log, 7, C128), *borders),
    )


def _recall_state() -> Case:
    arguments = (randn(2, 2, 5, 4), randn(2, 2, 5, 3), randn(2, 2, 5))
    return recall_state, arguments, arguments


def _recall_read() -> Case:
    arguments = (randn(2, 2, 5, 4), randn(2, 2, 5), randn(2, 2, 4, 3), randn(2, 2, 5, 3))
    return recall_read, arguments, arguments


def _recall_local() -> Case:
    segment = torch.tensor([[0, 0, 1, 1, 1], [2, 3, 3, 3, 4]])
    total = (-torch.rand(2, 2, 5, dtype=torch.float64)).cumsum(-1).requires_grad_()
    arguments = (randn(2, 2, 5, 4), randn(2, 2, 5, 4), randn(2, 2, 5, 3), total)
    return lambda *i: recall_local(*i, segment), arguments, (*arguments, segment)


def _recall_inputs() -> Case:
    # the last chunk incomplete
    angle = torch.rand(7, 2, dtype=torch.float64)
    arguments, rest = (randn(2, 7, 3, 8),), (angle.cos(), angle.sin(), 2, 3)
    return lambda *i: recall_inputs(*i, *rest), arguments, (*arguments, *rest)


def _norm_gate() -> Case:
    arguments = (randn(3, 12), randn(3, 12), randn(12))
    return lambda *i: norm_gate(*i, 3, 1e-6), arguments, (*arguments, 3, 1e-6)


def _spectral_energy() -> Case:
    arguments = (complex_randn(2, 3, 4, 5),)
    return spectral_energy, arguments, arguments


def _gate_values() -> Case:
    R, H, M = 2, 3, 5
    arguments = (
        (torch.rand(R, H, M, dtype=torch.float64) + 0.3).requires_grad_(),
        randn(R, H, M),
        randn(R, H, M),
        torch.rand(R, H, dtype=torch.float64).requires_grad_(),
        torch.rand(H, dtype=torch.float64).requires_grad_(),
        randn(R, H, M),
    )
    return lambda *parts: gate_values(GateParts(*parts)), arguments, arguments


def _gate_spectrum() -> Case:
    arguments = (complex_randn(2, 3, 4, 5), complex_randn(2, 3, 5))
    return gate_spectrum, arguments, arguments


CASES: dict[str, Callable[[], Case]] = {
    "document_reset": _document_reset,
    "gate_spectrum": _gate_spectrum,
    "gate_values": _gate_values,
    "modal_read": _modal_read,
    "modal_state": _modal_state,
    "modal_state_many_rows": partial(_modal_state, MANY_ROWS),
    "modal_read_many_rows": partial(_modal_read, MANY_ROWS),
    "norm_gate": _norm_gate,
    "recall_inputs": _recall_inputs,
    "recall_local": _recall_local,
    "recall_read": _recall_read,
    "recall_state": _recall_state,
    "spectral_energy": _spectral_energy,
}
