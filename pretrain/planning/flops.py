"""Floating-point operations of our own ops, for `torch.utils.flop_counter`.

Multiply and add count as two; elementwise work is left out, as it is there. Each op's formulas are
in its `info.py`.
"""

from typing import Any

import torch

from kernels.op_info import Formula, op_infos


def op_formulas() -> dict[Any, Formula]:
    """Formulas by operator, as `FlopCounterMode(custom_mapping=...)` takes them."""
    return {
        getattr(torch.ops.resonance, name): formula
        for info in op_infos().values()
        for name, formula in info.flops.items()
    }
