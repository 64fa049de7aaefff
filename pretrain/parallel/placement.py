"""Placement of a rank's parameters in the whole ones, which checkpoints reshape by."""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn


class Placement(NamedTuple):
    """Placement of a rank's parameter in the whole parameter.

    Attributes:
        name: Name of the whole parameter, as in `SpectralLM.state_dict()`.
        shape: Shape of the whole parameter.
        dim: Dimension that is split; None if this rank holds all of it.
        ranges: This rank's (start, stop) ranges along `dim`, in the order of its rows: a projection
            that makes q, k and v has one range for each.
        padding: Number of rows after them that are in no whole parameter, for a vocabulary that
            does not divide.
    """

    name: str
    shape: tuple[int, ...]
    dim: int | None = None
    ranges: tuple[tuple[int, int], ...] = ()
    padding: int = 0

    def part_of(self, whole: Tensor) -> Tensor:
        """This rank's part of the whole parameter."""
        if self.dim is None:
            return whole
        pieces = [whole.narrow(self.dim, a, b - a) for a, b in self.ranges]
        if self.padding:
            shape = list(whole.shape)
            shape[self.dim] = self.padding
            pieces.append(whole.new_zeros(shape))
        return torch.cat(pieces, self.dim)


def place(parameter: nn.Parameter, placement: Placement) -> None:
    """Record a parameter's placement on it, for checkpoints and for DeepSpeed's norms."""
    parameter.placement = placement  # type: ignore[attr-defined]
    parameter.model_parallel = placement.dim is not None  # type: ignore[attr-defined]


def cut(module: nn.Module, key: str, placement: Placement) -> None:
    """Replace a whole parameter by the part of it that a rank holds, in place."""
    whole: Tensor = getattr(module, key)
    part = nn.Parameter(placement.part_of(whole.detach()).clone())
    place(part, placement)
    setattr(module, key, part)


def is_split(parameter: nn.Parameter) -> bool:
    """Whether tensor ranks hold different parts of a parameter."""
    return getattr(parameter, "model_parallel", False)


def placements(model: nn.Module) -> Iterator[tuple[Placement, nn.Parameter]]:
    """Placement and value of every parameter of a rank's part of a model, each once.

    A parameter without a recorded placement is whole, under its name here.
    """
    for name, parameter in model.named_parameters():
        placement = getattr(parameter, "placement", None)
        # ZeRO-3 leaves an empty tensor behind and keeps its shape in `ds_shape`
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        yield cast(Placement, placement) or Placement(name, shape), parameter
