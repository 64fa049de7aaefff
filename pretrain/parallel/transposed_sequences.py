"""Whole sequences of some heads, exchanged for spans of all heads between sequence ranks.

For operators that read a whole sequence and carry no state: the FFT and the wavelets of
bidirectional models. An exchange moves a span's activations once, whatever the number of ranks.

Shape letters: B batch, T time (tokens of the span), D channels, E channels of this rank's share,
S tokens of the sequence, R rows, H heads, M modes, P ranks.

Source: the all-to-all of DeepSpeed Ulysses (Jacobs et al. 2023, arXiv 2309.14509).
"""

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.parallel.collectives import exchanged_rows, gathered_along
from pretrain.parallel.mesh import Axis
from spectral.layout import HeadGroup, Transposition


class RankTransposition(Transposition):
    """The exchange between the ranks of an axis; each takes an equal share of the heads."""

    def __init__(self, axis: Axis):
        self.axis = axis

    def whole(self, x_BTD: Tensor) -> Tensor:
        """All tokens of this rank's share of the channels [B, S, E]."""
        B, T, _ = x_BTD.shape
        x_PBTE = torch.stack(x_BTD.chunk(self.axis.size, dim=-1))
        x_PBTE = self._exchange(x_PBTE.flatten(0, 2)).view(x_PBTE.shape)
        return x_PBTE.transpose(0, 1).reshape(B, self.axis.size * T, -1)

    def part(self, y_BTD: Tensor) -> Tensor:
        """All channels of this rank's span [B, T, D]."""
        y_PBTE = torch.stack(y_BTD.chunk(self.axis.size, dim=1))
        y_PBTE = self._exchange(y_PBTE.flatten(0, 2)).view(y_PBTE.shape)
        return y_PBTE.permute(1, 2, 0, 3).flatten(-2)

    def whole_ids(self, segment_ids_BT: Tensor) -> Tensor:
        """Document numbers of all tokens [B, S]."""
        local_BT = segment_ids_BT.contiguous()
        parts = [torch.empty_like(local_BT) for _ in range(self.axis.size)]
        dist.all_gather(parts, local_BT, group=self.axis.group)
        return torch.cat(parts, dim=1)

    def heads(self, group: HeadGroup) -> HeadGroup:
        """This rank's share of a group."""
        return _SharedHeads(self.axis, group)

    def _exchange(self, x_RE: Tensor) -> Tensor:
        rows = [len(x_RE) // self.axis.size] * self.axis.size
        return exchanged_rows(x_RE, rows, rows, self.axis)


class _SharedHeads(HeadGroup):
    """A share of the heads of a group; sequence ranks hold the parameters of all of them."""

    def __init__(self, axis: Axis, group: HeadGroup):
        self.axis, self.group = axis, group

    def gather(self, energy_RHM: Tensor) -> Tensor:
        return self.group.gather(gathered_along(energy_RHM, 1, self.axis))

    def local(self, gate_RHM: Tensor) -> Tensor:
        return self.group.local(gate_RHM).chunk(self.axis.size, dim=1)[self.axis.rank]

    def loss(self, value: Tensor) -> Tensor:
        # gradients are summed over sequence ranks, each of which weights it by its own tokens
        return self.group.loss(value)

    def share(self, values_D: Tensor) -> Tensor:
        return values_D.chunk(self.axis.size)[self.axis.rank]
