"""Results that depend on values, which fake tensors lack: every mask is false, every number 1."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _scalar(tensor: Tensor) -> Any:
    constant = getattr(tensor, "constant", None)
    if constant is not None:
        return constant.item()
    if tensor.dtype == torch.bool:
        return False
    return 1.0 if tensor.is_floating_point() else 1


def _no_places(mask: Tensor) -> Tensor:
    return mask.new_empty((0, mask.ndim), dtype=torch.long)


def _even_bins(index: Tensor, weights: Any = None, minlength: int = 0) -> Tensor:  # noqa: ARG001
    return index.new_zeros((minlength,), dtype=torch.long)


def without_masks(indices: Iterable[Any]) -> list[Any]:
    """Indices with masks replaced by the places that they select: none."""
    replaced: list[Any] = []
    for index in indices:
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            replaced += _no_places(index).unbind(1)
        else:
            replaced.append(index)
    return replaced


# operations whose results depend on values
RESULTS: dict[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: _scalar,
    aten.nonzero.default: _no_places,
    aten.bincount.default: _even_bins,
}
