"""FLOPs, launches and gradcheck cases of `modal_state` and `modal_read`."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.modal.op import modal_read, modal_state
from kernels.modal.reference import mode_powers
from kernels.op_info import GradcheckCase, LaunchCase, OpInfo, Shape, complex_randn, randn

Shape3 = tuple[int, int, int]
# more rows than the 2 M numbers of a state: the reference flips and weights the table of powers
# instead of the signal
MANY_ROWS = 8


def product_flops(D: int, N: int, C: int, M: int) -> int:
    """Operations of one product of a chunk's signal [N, C] and its powers [C, 2 M] per channel."""
    return 2 * D * N * C * 2 * M


def _state(u: Shape3, log_lambda: Shape, *_tables: Any, **_: Any) -> int:
    return product_flops(*u, log_lambda[1])


def _state_backward(_grad: Any, u: Shape3, fine: Shape, *_tables: Any, **_: Any) -> int:
    # the gradients of signal and log λ
    return 2 * product_flops(*u, fine[2])


def _read(
    state: Shape3, _log: Any, _fine: Any, _coarse: Any, rest: Shape3, *_mask: Any, **_: Any
) -> int:
    return product_flops(*rest, state[2])


def _read_backward(grad: Shape3, state: Shape3, *_tables: Any, **_: Any) -> int:
    # the gradients of state and log λ
    return 2 * product_flops(*grad, state[2])


def launch_tables(C: int) -> tuple[Tensor, Tensor]:
    """Fine and coarse powers of 2 channels and 16 modes, for launches."""
    powers = mode_powers(torch.zeros(2, 16, dtype=torch.complex128), C, torch.complex64)
    return powers.fine_DfM, powers.coarse_DsM


def _launches(dtype: torch.dtype) -> list[LaunchCase]:
    from kernels.modal import triton

    C = 1024
    u, mask = torch.zeros(2, 64, C, dtype=dtype), torch.ones(64, C, dtype=torch.bool)
    state, tables = torch.zeros(2, 64, 16, dtype=torch.complex64), launch_tables(C)
    return [
        LaunchCase(triton.modal_state, (u, *tables, mask)),
        LaunchCase(triton.modal_state_backward, (state, u, *tables, mask)),
        LaunchCase(triton.modal_read, (state, *tables, u, mask)),
        LaunchCase(triton.modal_read_backward, (u, state, *tables, mask)),
    ]


def random_modes(D: int, M: int) -> Tensor:
    """Logarithms of slowly decaying modes of any frequency: [D, M], complex128, differentiable."""
    alpha, omega = torch.rand(2, D, M, dtype=torch.float64)
    return torch.complex(-0.2 * alpha, 3.0 * omega).requires_grad_()


def _gradcheck_state(num_rows: int) -> GradcheckCase:
    log, u, mask = random_modes(2, 3), randn(2, num_rows, 7), torch.rand(num_rows, 7) > 0.4
    return GradcheckCase(
        "modal_state",
        lambda u, log: modal_state(u, mode_powers(log, 7, torch.complex128), mask),
        (u, log),
        (u, *mode_powers(log, 7, torch.complex128), mask),
    )


def _gradcheck_read(num_rows: int) -> GradcheckCase:
    log, rest, mask = random_modes(2, 3), randn(2, num_rows, 7), torch.rand(num_rows, 7) > 0.4
    state = complex_randn(2, num_rows, 3)
    return GradcheckCase(
        "modal_read",
        lambda state, log, rest: modal_read(
            state, mode_powers(log, 7, torch.complex128), rest, mask
        ),
        (state, log, rest),
        (state, *mode_powers(log, 7, torch.complex128), rest, mask),
    )


INFO = OpInfo(
    flops={
        "modal_state": _state,
        "modal_state_backward": _state_backward,
        "modal_read": _read,
        "modal_read_backward": _read_backward,
    },
    launches=_launches,
    gradchecks={
        "modal_state": partial(_gradcheck_state, 3),
        "modal_state many rows": partial(_gradcheck_state, MANY_ROWS),
        "modal_read": partial(_gradcheck_read, 3),
        "modal_read many rows": partial(_gradcheck_read, MANY_ROWS),
    },
    tensor_cores=True,
)
