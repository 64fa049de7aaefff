"""Precision of a model's arithmetic: float32, or half precision where it is safe.

Half precision is autocast: matrix products run in bfloat16 or float16, and under bfloat16 signals
stay in it between ops. Parameters, accumulated gradients, optimizer states and modes are float32,
because few bits of mantissa cannot represent a frequency; `wire` has what travels between ranks.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from pretrain.errors import RunError
from pretrain.train_config import TrainConfig

P = ParamSpec("P")
R = TypeVar("R")


def product_dtype(precision: str) -> torch.dtype | None:
    """The dtype of matrix products for a `train.precision`; None for that of the operands.

    Raises:
        RunError: The precision is bf16 and the GPU does not support it.
    """
    if precision == "fp16":
        return torch.float16
    on_gpu = torch.cuda.is_available()
    capable = on_gpu and torch.cuda.is_bf16_supported()
    if precision == "bf16" and on_gpu and not capable:
        raise RunError(
            'train.precision is "bf16", which this GPU does not have; expected "auto", "fp16" or '
            '"float32"'
        )
    wanted = capable if precision == "auto" else precision == "bf16"
    return torch.bfloat16 if wanted else None


def precision_name(precision: str) -> str:
    """The value of `train.precision` that `auto` stands for on this machine; others stand for it.

    Raises:
        RunError: As `product_dtype`.
    """
    names = {None: "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    return names[product_dtype(precision)]


class Precision:
    """Autocast around functions inside a model.

    It is inside the model because DeepSpeed's engine turns off any autocast around itself, and
    losses are computed outside of the engine too.

    Attributes:
        dtype: Dtype of matrix products; None for that of the operands.
    """

    def __init__(self, precision: str):
        self.dtype = product_dtype(precision)

    def around(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, computed in this precision."""

        @functools.wraps(function)
        def wrapped(*arguments: P.args, **keywords: P.kwargs) -> R:
            with autocast(self.dtype):
                return function(*arguments, **keywords)

        return wrapped

    @contextmanager
    def off(self) -> Iterator[None]:
        """Compute everything in float32 inside this context."""
        dtype, self.dtype = self.dtype, None
        try:
            yield
        finally:
            self.dtype = dtype


def autocast(dtype: torch.dtype | None) -> Any:
    """A context with matrix products in a dtype, on this process's device."""
    return torch.autocast(_device_type(), dtype=dtype, enabled=dtype is not None)


def current_autocast() -> torch.dtype | None:
    """The present dtype of matrix products; None without autocast."""
    device = _device_type()
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


class LossScale:
    """A factor that keeps gradients of float16 products above the smallest float16.

    The loss is multiplied by it, and the float32 gradient of every parameter divided by it, so it
    does not affect norms, clipping and optimizer. A step whose gradient overflows is computed again
    with half the scale: no data is lost, and the guard receives only steps that no scale can save.
    After `train.loss_scale_window` steps without overflow the scale doubles.

    State, kept in checkpoints: `value`, and the number of steps since it changed.

    Source: Micikevicius et al. 2018, Mixed Precision Training (arXiv 1710.03740).
    """

    def __init__(self, config: TrainConfig, parameters: Iterable[nn.Parameter]):
        self._window = config.loss_scale_window
        self._good_steps = 0
        self._is_fixed = config.precision != "fp16"
        self.value = 1.0 if self._is_fixed else config.initial_loss_scale
        if not self._is_fixed:
            for parameter in parameters:
                parameter.register_hook(self._unscaled)

    def _unscaled(self, grad: Tensor) -> Tensor:
        return grad / self.value

    def rejects(self, loss: float, norm: float) -> bool:
        """Whether a step must be computed again; if so, the scale has been lowered.

        Args:
            loss: Loss of the step; if it is not finite, no scale helps.
            norm: Norm of its gradient.
        """
        if self._is_fixed or not math.isfinite(loss):
            return False
        if math.isfinite(norm):
            self._good_steps += 1
            if self._good_steps == self._window:
                self.value, self._good_steps = 2.0 * self.value, 0
            return False
        self._good_steps = 0
        if self.value <= 1.0:
            return False
        self.value = max(1.0, self.value / 2.0)
        return True

    def state_dict(self) -> dict[str, float]:
        """State as JSON-able numbers; empty unless the precision is fp16."""
        if self._is_fixed:
            return {}
        return {"value": self.value, "good_steps": self._good_steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a saved state; that of a run in another precision is ignored."""
        if state and not self._is_fixed:
            self.value, self._good_steps = state["value"], int(state["good_steps"])
