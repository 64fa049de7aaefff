"""Which part of which whole parameter a rank holds: what checkpoints need to know of a layout."""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn


class Placement(NamedTuple):
    """The part of a whole parameter that a rank's parameter is.

    Attributes:
        name: Of the whole parameter, as in `SpectralLM.state_dict()`.
        shape: Of the whole parameter.
        dim: The dimension that is split; None if this rank holds all of it.
        ranges: What this rank holds along `dim`, (start, stop) in the order in which its rows lie
            here: a projection that makes q, k and v has one range for each.
        padding: Rows after them that are of no whole parameter: a vocabulary that does not divide
            has some.
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
    """Note on a parameter which part of which whole it is, for us and for DeepSpeed's norms."""
    parameter.placement = placement  # type: ignore[attr-defined]
    parameter.model_parallel = placement.dim is not None  # type: ignore[attr-defined]


def cut(module: nn.Module, key: str, placement: Placement) -> None:
    """Replace a whole parameter by the part of it that a rank holds, in place."""
    whole: Tensor = getattr(module, key)
    part = nn.Parameter(placement.part_of(whole.detach()).clone())
    place(part, placement)
    setattr(module, key, part)


def is_split(parameter: nn.Parameter) -> bool:
    """Whether tensor ranks hold different parts of it."""
    return getattr(parameter, "model_parallel", False)


def placements(model: nn.Module) -> Iterator[tuple[Placement, nn.Parameter]]:
    """Every parameter of a rank's part of a model, once, and what it is.

    A parameter without a note is whole, under its own name.
    """
    for name, parameter in model.named_parameters():
        found = getattr(parameter, "placement", None)
        # ZeRO-3 leaves an empty tensor behind and keeps the shape beside it
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        yield cast(Placement, found) or Placement(name, shape), parameter
