"""Facts about an op that planner, doctor and tests read, and the folders that hold the ops.

An op is a folder of `kernels/` with `reference.py`, `triton.py`, `op.py` and `info.py`, which holds
`INFO`. Neither training nor an exported model imports it, and it imports Triton only to list
launches.
"""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
# the files that hold an op
FILES = ("reference", "triton", "op", "info")

Shape = tuple[int, ...]
# floating-point operations of an operator, from its arguments with shapes in place of tensors
Formula = Callable[..., int]


class LaunchCase(NamedTuple):
    """A call that launches kernels at the size of a real model, for ahead-of-time compilation.

    Attributes:
        function: Function of the op's `triton.py`.
        arguments: Its arguments, on the CPU.
        label: Suffix of the launches' names; empty for the names of the flags that are set.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    label: str = ""


class GradcheckCase(NamedTuple):
    """Small float64 arguments for gradcheck and for torch's checks of an operator.

    Attributes:
        operator: Name of the operator in `torch.ops.resonance`.
        function: Differentiable function that calls the operator once.
        inputs: Arguments of the function, all differentiable.
        operator_inputs: Arguments of the operator.
    """

    operator: str
    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    operator_inputs: tuple[Any, ...]


class OpInfo(NamedTuple):
    """Everything that belongs to an op besides its implementations.

    Attributes:
        flops: Formula of each of its torch operators, by the operator's name.
        launches: Function from the dtype of signals to calls that launch every kernel.
        gradchecks: Functions that make a case each, by the case's name.
        tensor_cores: Whether every kernel consists of matrix products that need tensor cores.
    """

    flops: Mapping[str, Formula]
    launches: Callable[[torch.dtype], list[LaunchCase]]
    gradchecks: Mapping[str, Callable[[], GradcheckCase]]
    tensor_cores: bool = False


def op_names(folder: Path = FOLDER) -> list[str]:
    """Names of the ops: the folders with Python files in them."""
    return sorted(path.name for path in folder.iterdir() if any(path.glob("*.py")))


def op_infos() -> dict[str, OpInfo]:
    """Every op's `INFO` by the op's name; the import registers its torch operators."""
    return {name: importlib.import_module(f"kernels.{name}.info").INFO for name in op_names()}


def elementwise(*_arguments: Any, **_keywords: Any) -> int:
    """Zero: elementwise work and sums are left out, as in `torch.utils.flop_counter`."""
    return 0


def randn(*shape: int) -> Tensor:
    """Differentiable normal numbers, float64."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def complex_randn(*shape: int) -> Tensor:
    """Differentiable normal numbers, complex128."""
    return torch.randn(*shape, dtype=torch.complex128, requires_grad=True)
