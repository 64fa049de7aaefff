"""Pooling: one vector for each document of packed rows, wherever its tokens are.

Shape letters: B batch, T time (tokens of the span), D channels, S documents of a row, N = B S.
"""

from typing import Literal

import torch
from torch import Tensor

from kernels.precision import full_precision
from spectral.sequence.span import WHOLE, Span

Pooling = Literal["mean", "max", "cls"]


def pool_documents(
    x_BTD: Tensor, segment_ids_BT: Tensor | None, kind: Pooling, span: Span = WHOLE
) -> Tensor:
    """A vector of each document, from the hidden states of its tokens.

    Args:
        x_BTD: Hidden states of the span.
        segment_ids_BT: Document number of each token, from 0 in each row; None: every row is one
            document.
        kind: Mean, maximum of every channel, or the vector of the first token (cls).
        span: The span; documents may lie across several.

    Returns:
        pooled_BSD; zeros for rows with fewer documents.

    Cost: O(B T D) time; B S D numbers between sequence ranks.
    """
    B, T, D = x_BTD.shape
    if segment_ids_BT is None:
        segment_ids_BT = torch.zeros(B, T, dtype=torch.long, device=x_BTD.device)
    S = span.num_documents(segment_ids_BT)
    row_B1 = torch.arange(B, device=x_BTD.device)[:, None]
    document_R = (row_B1 * S + segment_ids_BT).flatten()
    x_RD = full_precision(x_BTD).flatten(0, 1)
    if kind == "max":
        lowest_ND = x_RD.new_full((B * S, D), -torch.inf)
        index_RD = document_R[:, None].expand(-1, D)
        top_ND = lowest_ND.scatter_reduce(0, index_RD, x_RD, "amax")
        top_ND = span.largest(top_ND)
        return torch.where(top_ND.isinf(), 0.0, top_ND).view(B, S, D)
    if kind == "cls":
        x_RD = x_RD * _starts(segment_ids_BT, span).flatten()[:, None]
        return span.total(x_RD.new_zeros(B * S, D).index_add(0, document_R, x_RD)).view(B, S, D)
    ones_RD = torch.cat([x_RD, torch.ones_like(x_RD[:, :1])], dim=1)
    sums = span.total(x_RD.new_zeros(B * S, D + 1).index_add(0, document_R, ones_RD))
    return (sums[:, :-1] / sums[:, -1:].clamp(min=1.0)).view(B, S, D)


def _starts(segment_ids_BT: Tensor, span: Span) -> Tensor:
    """Whether each token is the first of its document."""
    before_B1 = span.before(segment_ids_BT, 1)
    if before_B1 is None:
        before_B1 = segment_ids_BT[:, :1] - 1
    return torch.diff(segment_ids_BT, prepend=before_B1, dim=1) != 0
