"""FLOPs, launches and gradcheck case of `norm_gate`."""

import torch

from kernels.norm_gate.op import norm_gate
from kernels.op_info import GradcheckCase, LaunchCase, OpInfo, elementwise, randn


def _launches(dtype: torch.dtype) -> list[LaunchCase]:
    from kernels.norm_gate import triton

    x, scale = torch.zeros(128, 512, dtype=dtype), torch.zeros(512)
    return [
        LaunchCase(triton.norm_gate, (x, x, scale, 8, 1e-6)),
        LaunchCase(triton.norm_gate_backward, (x, x, x, scale, torch.zeros(128, 8))),
    ]


def _gradcheck() -> GradcheckCase:
    inputs = (randn(3, 12), randn(3, 12), randn(12))
    return GradcheckCase(
        "norm_gate",
        lambda x, gate, scale: norm_gate(x, gate, scale, 3, 1e-6),
        inputs,
        (*inputs, 3, 1e-6),
    )


INFO = OpInfo(
    flops={"norm_gate": elementwise, "norm_gate_backward": elementwise},
    launches=_launches,
    gradchecks={"norm_gate": _gradcheck},
)
