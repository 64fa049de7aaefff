"""FLOPs, launches and gradcheck case of `recall_inputs`."""

import torch

from kernels.op_info import GradcheckCase, LaunchCase, OpInfo, elementwise, randn
from kernels.recall_qkv.op import recall_inputs


def _launches(dtype: torch.dtype) -> list[LaunchCase]:
    from kernels.recall_qkv import triton

    qkv, phases = torch.zeros(2, 128, 3, 512, dtype=dtype), torch.zeros(2, 128, 32)
    heads, inverses = torch.zeros(3, 4, 8, 64, 64, dtype=dtype), torch.zeros(2, 4, 8, 64)
    return [
        LaunchCase(triton.recall_inputs, (qkv, *phases, 8, 64)),
        LaunchCase(triton.recall_inputs_backward, (*heads, qkv, *phases, *heads[:2], *inverses)),
    ]


def _gradcheck() -> GradcheckCase:
    # the last chunk is incomplete
    angle = torch.rand(7, 2, dtype=torch.float64)
    qkv, cos, sin = randn(2, 7, 3, 8), angle.cos(), angle.sin()
    return GradcheckCase(
        "recall_inputs",
        lambda qkv: recall_inputs(qkv, cos, sin, 2, 3),
        (qkv,),
        (qkv, cos, sin, 2, 3),
    )


INFO = OpInfo(
    flops={"recall_inputs": elementwise, "recall_inputs_backward": elementwise},
    launches=_launches,
    gradchecks={"recall_inputs": _gradcheck},
)
