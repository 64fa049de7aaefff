"""Choice of an op's implementation: the Triton kernel on a GPU, the reference elsewhere.

Every op is a folder with `reference.py` and `triton.py`, which hold functions of the same names and
arguments. Triton is imported when the first kernel is needed, and never in an exported model.
"""

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

# "auto": kernels for CUDA tensors; "triton" and "reference" force one for every tensor
SWITCH = "RESONANCE_KERNELS"
CHOICES = ("auto", "triton", "reference")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)

P = ParamSpec("P")
R = TypeVar("R")


class NotServedError(Exception):
    """Arguments that no kernel serves; the message says why. Raised before any launch."""


def run(reference: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
    """The result of an op's kernel, or of its reference, by the device of the arguments.

    Every tensor of it is contiguous, as torch.compile is promised by the operators' fake versions.

    Args:
        reference: Function of the op's `reference.py`; the kernel has the same name.
        arguments: Its arguments; the first tensor decides.
        keywords: Its keyword arguments.

    Raises:
        ValueError: The switch has an unknown value, or forces kernels where none can run.
    """
    device = next(a.device for a in arguments if isinstance(a, Tensor))
    kernels = _kernels(reference.__module__) if _wants_kernel(device) else None
    if kernels is None:
        return _contiguous(reference(*arguments, **keywords))
    name = reference.__name__
    try:
        result = getattr(kernels, name)(*arguments, **keywords)
    except NotServedError as error:
        _warn_once(f"{name}: {error}; the reference in PyTorch computes it instead")
        result = reference(*arguments, **keywords)
    return _contiguous(result)


def _contiguous(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.contiguous()
    return tuple(part.contiguous() for part in result)


def _wants_kernel(device: torch.device) -> bool:
    choice = os.environ.get(SWITCH, "auto")
    if choice not in CHOICES:
        raise ValueError(f"{SWITCH}: expected one of {', '.join(CHOICES)}, got {choice!r}")
    if choice == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"{SWITCH}=triton: expected CUDA tensors or TRITON_INTERPRET=1, got a tensor on "
            f"{device} and no interpreter"
        )
    return choice == "triton" or (choice == "auto" and device.type == "cuda")


@functools.cache
def _kernels(reference_module: str) -> ModuleType | None:
    name = reference_module.removesuffix("reference") + "triton"
    # an exported model carries references only
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def check_tensors(op: str, like: Tensor, /, **tensors: Tensor | None) -> None:
    """Reject tensors that no implementation takes, before anything is computed.

    Any strides are served: non-contiguous tensors are copied. Layouts without strides are not.

    Args:
        op: Name of the op, for the message.
        like: Tensor on the expected device.
        tensors: All tensor arguments by name; booleans and integers pass as masks and labels.

    Raises:
        ValueError: A tensor is on another device, sparse, or of a dtype that no op takes.
    """
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.device != like.device:
            raise ValueError(f"{op}: expected {name} on {like.device}, got it on {tensor.device}")
        if tensor.layout != torch.strided:
            raise ValueError(f"{op}: expected {name} with strides, got {tensor.layout}")
        number = tensor.is_floating_point() or tensor.is_complex()
        if number and tensor.dtype not in FLOATS + COMPLEX:
            raise ValueError(f"{op}: expected {name} in {FLOATS + COMPLEX}, got {tensor.dtype}")
