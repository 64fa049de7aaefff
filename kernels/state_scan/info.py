"""FLOPs, launches and gradcheck cases of `state_scan`."""

from functools import partial

import torch

from kernels.op_info import GradcheckCase, LaunchCase, OpInfo, elementwise
from kernels.state_scan.op import state_scan


def _launches(_dtype: torch.dtype) -> list[LaunchCase]:
    """Launches on states, which are complex64 or float32 whatever the dtype of signals."""
    from kernels.state_scan import triton

    cases = []
    for dtype, F in ((torch.complex64, 1), (torch.float32, 16)):
        decay = torch.zeros(2, 32, 512, dtype=dtype)
        update = torch.zeros(2, 32, 512, F, dtype=dtype)
        state = torch.zeros(2, 512, F, dtype=dtype)
        cases.append(LaunchCase(triton.state_scan, (decay, update, state)))
        cases.append(LaunchCase(triton.state_scan_backward, (update, state, decay, update)))
    return cases


def _gradcheck(dtype: torch.dtype) -> GradcheckCase:
    decay, update, initial = (
        torch.randn(shape, dtype=dtype, requires_grad=True)
        for shape in ((2, 4, 3), (2, 4, 3, 2), (2, 3, 2))
    )
    inputs = (decay, update, initial)
    return GradcheckCase("state_scan", state_scan, inputs, inputs)


INFO = OpInfo(
    # one multiply and add per element and chunk, as elementwise as `torch.addcmul`
    flops={"state_scan": elementwise, "state_scan_backward": elementwise},
    launches=_launches,
    gradchecks={
        "state_scan": partial(_gradcheck, torch.float64),
        "state_scan complex": partial(_gradcheck, torch.complex128),
    },
)
