"""Auxiliary losses of spectral gates.

Shape letters: R rows (batch times chunks), H head, M bins (modes).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from spectral.sequence.span import WHOLE, Span

EPSILON = 1e-6


class GateLosses(NamedTuple):
    """Auxiliary losses of a gate, scalars of the order of 1 before their weights.

    Attributes:
        entropy: 1 - (entropy of the mean share of energy per bin) / ln M: 0 if all bins are used.
        consistency: Divergence of the spectrum that is read from the one that is carried.
    """

    entropy: Tensor
    consistency: Tensor


def gate_losses(energy_RHM: Tensor, gate_RHM: Tensor, span: Span = WHOLE) -> GateLosses:
    """Auxiliary losses from the energy that is carried and the gate with which it is read."""
    R, H, M = energy_RHM.shape
    carried_RHM = (energy_RHM + EPSILON) / (energy_RHM + EPSILON).sum(-1, keepdim=True)
    read_RHM = energy_RHM * gate_RHM.abs().square() + EPSILON
    read_RHM = read_RHM / read_RHM.sum(-1, keepdim=True)
    # rows that carry nothing, such as first chunks, have no usage to count
    carries_RH1 = (energy_RHM.sum(-1, keepdim=True) > 0).to(read_RHM.dtype)
    divergence_RH = (carried_RHM * (carried_RHM.log() - read_RHM.log())).sum(-1)
    sums = torch.cat(
        [
            (carries_RH1 * read_RHM).sum(0).flatten(),
            divergence_RH.mean()[None] * R,
            carries_RH1.new_full((1,), R),
        ]
    )
    usage, divergence, rows = span.total(sums).split([H * M, 1, 1])
    usage_HM = usage.view(H, M) + EPSILON / M
    usage_HM = usage_HM / usage_HM.sum(-1, keepdim=True)
    entropy = -(usage_HM * usage_HM.log()).sum(-1).mean() / math.log(max(M, 2))
    return GateLosses(1.0 - entropy, (divergence / rows)[0])


def mean_losses(parts: Sequence[tuple[GateLosses | None, float]]) -> GateLosses | None:
    """Weighted mean of the losses of several gates; None if there are no gates."""
    weighted = [(losses, weight) for losses, weight in parts if losses is not None]
    if not weighted:
        return None
    total = sum(weight for _, weight in weighted)
    scaled = [[loss * (weight / total) for loss in losses] for losses, weight in weighted]
    return GateLosses(*(torch.stack(column).sum(0) for column in zip(*scaled, strict=True)))
