"""FLOPs, launches and gradcheck case of `document_reset`."""

from typing import Any

import torch

from kernels.document_reset.op import document_reset
from kernels.modal.info import launch_tables, product_flops, random_modes
from kernels.modal.reference import mode_powers
from kernels.op_info import GradcheckCase, LaunchCase, OpInfo, Shape, complex_randn, randn


def _forward(
    _y: Any, u: Shape, scale: Shape, _log: Any, _fine: Any, _coarse: Any, row: Shape, *_: Any,
    **_keywords: Any,
) -> int:  # fmt: skip
    (D, M), C = scale, u[2]
    # the state at every document start, and its read-out
    return 2 * product_flops(D, row[0], C, M)


def _backward(
    _grad: Any, u: Shape, scale: Shape, _fine: Any, _coarse: Any, row: Shape, *_: Any,
    **_keywords: Any,
) -> int:  # fmt: skip
    (D, M), C = scale, u[2]
    # the state again, and two gradients each of read-out and state
    return 5 * product_flops(D, row[0], C, M)


def _launches(dtype: torch.dtype) -> list[LaunchCase]:
    from kernels.document_reset import triton

    C = 1024
    u, scale = torch.zeros(2, 64, C, dtype=dtype), torch.zeros(2, 16, dtype=torch.complex64)
    borders = (torch.tensor([0, 1]), torch.tensor([5, 6]), torch.tensor([C, C]))
    arguments = (u, u, scale, *launch_tables(C), *borders)
    return [
        LaunchCase(triton.document_reset, arguments),
        LaunchCase(triton.document_reset_backward, arguments),
    ]


def _gradcheck() -> GradcheckCase:
    borders = tuple(torch.tensor(i) for i in ([0, 0, 2], [2, 5, 3], [5, 7, 7]))
    y, u, scale, log = randn(2, 3, 7), randn(2, 3, 7), complex_randn(2, 3), random_modes(2, 3)
    return GradcheckCase(
        "document_reset",
        lambda y, u, scale, log: document_reset(
            y, u, scale, mode_powers(log, 7, torch.complex128), *borders
        ),
        (y, u, scale, log),
        (y, u, scale, *mode_powers(log, 7, torch.complex128), *borders),
    )


INFO = OpInfo(
    flops={"document_reset": _forward, "document_reset_backward": _backward},
    launches=_launches,
    gradchecks={"document_reset": _gradcheck},
)
