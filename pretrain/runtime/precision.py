"""What a model computes in: float32, or matrix products in half precision.

Half precision is autocast: parameters, gradients, optimizer and modes stay float32, because few
bits of mantissa do not hold a frequency, and only matrix products run in bfloat16 or float16.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from pretrain.config import TrainConfig
from pretrain.errors import RunError

P = ParamSpec("P")
R = TypeVar("R")


def product_dtype(precision: str) -> torch.dtype | None:
    """The dtype of matrix products for a `train.precision`; None is that of the operands.

    Raises:
        RunError: The run asks for bfloat16 and the GPU has none.
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


class Precision:
    """Autocast around the functions of a model.

    Inside of the model, because DeepSpeed's engine turns off any that is around it; DeepSpeed's own
    would also sum gradients over ranks in half precision.

    Attributes:
        dtype: Of matrix products; None for that of the operands.
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
        """Everything in float32 for a while."""
        dtype, self.dtype = self.dtype, None
        try:
            yield
        finally:
            self.dtype = dtype


def autocast(dtype: torch.dtype | None) -> Any:
    """Matrix products in a dtype, on the device that this process computes on."""
    return torch.autocast(_device_type(), dtype=dtype, enabled=dtype is not None)


def current_autocast() -> torch.dtype | None:
    """The dtype of matrix products at this place."""
    device = _device_type()
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


class LossScale:
    """A factor that keeps gradients of float16 products above the smallest float16.

    The loss is multiplied with it and the gradient of every parameter, float32, divided by it, so
    that norms, clipping and optimizer never see it. A step whose gradient overflows is computed
    again with half of it: no data is lost, and the guard hears only of what no scale could help.
    After `train.loss_scale_window` steps without overflow it doubles.

    State, in checkpoints: `value`, and the steps since it changed.

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
        """Whether a step is to be computed again, with the lower scale that there is then.

        Args:
            loss: Of the step; if it overflows itself, no scale helps.
            norm: Of its gradient.
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
        """State as JSON-able numbers; none where there is nothing to scale."""
        if self._is_fixed:
            return {}
        return {"value": self.value, "good_steps": self._good_steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a saved state; one of a run in another precision changes nothing."""
        if state and not self._is_fixed:
            self.value, self._good_steps = state["value"], int(state["good_steps"])
