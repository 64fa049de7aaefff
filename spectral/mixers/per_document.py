"""Bidirectional operators on packed rows: each document whole, and separately.

Shape letters: B batch, T time (tokens), D channels, N documents of one length L.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.precision import full_precision
from spectral.gates.losses import GateLosses, mean_losses
from spectral.layout import Layout
from spectral.mixers.context import SequenceContext
from spectral.modules.transpose import channels_first, time_first

# u_NDL -> (y_NDL, auxiliary losses)
Convolution = Callable[[Tensor], tuple[Tensor, GateLosses | None]]

# the same, on some heads of a layer
HeadsConvolution = Callable[[Tensor, Layout], tuple[Tensor, GateLosses | None]]


def mix_whole(
    convolve: HeadsConvolution, u_BTD: Tensor, context: SequenceContext
) -> tuple[Tensor, GateLosses | None]:
    """Apply an operator to each whole document of this device's span; as `per_document`.

    Args:
        convolve: Operator on whole sequences [N, D, L] in a layout without spans.
        u_BTD: Signal of the span.
        context: Documents and layout of the span.

    Returns:
        (y_BTD, auxiliary losses).

    Cost: between P sequence ranks two exchanges of B T D / P numbers each, and of document numbers.
    """
    exchange, layout = context.layout.transposition, context.layout.whole()
    segments_BT = context.segment_ids_BT
    if segments_BT is not None:
        segments_BT = exchange.whole_ids(segments_BT)
    whole_BDT = channels_first(full_precision(exchange.whole(u_BTD)))
    y_BDT, losses = per_document(lambda u_NDL: convolve(u_NDL, layout), whole_BDT, segments_BT)
    return exchange.part(time_first(y_BDT)), losses


def per_document(
    convolve: Convolution, u_BDT: Tensor, segment_ids_BT: Tensor | None
) -> tuple[Tensor, GateLosses | None]:
    """Apply an operator to each document of packed rows; equally long documents share a batch.

    Args:
        convolve: Operator on whole sequences [N, D, L].
        u_BDT: Packed rows.
        segment_ids_BT: Document number of each token; None if each row is one document.

    Cost: `convolve` once for each distinct length, at most sqrt(2 B T) of them.
    """
    if segment_ids_BT is None:
        return convolve(u_BDT)
    B, D, T = u_BDT.shape
    starts_BT = torch.ones_like(segment_ids_BT, dtype=torch.bool)
    starts_BT[:, 1:] = segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1]
    start_S = starts_BT.flatten().nonzero()[:, 0]
    length_S = torch.diff(start_S, append=start_S.new_full((1,), B * T))
    u_PD = u_BDT.transpose(1, 2).reshape(B * T, D)
    outputs, places, losses = [], [], []
    for length in length_S.unique().tolist():
        time_L = torch.arange(length, device=u_BDT.device)
        place_NL = start_S[length_S == length][:, None] + time_L
        y_NDL, length_losses = convolve(u_PD[place_NL].transpose(1, 2))
        outputs.append(y_NDL.transpose(1, 2).reshape(-1, D))
        places.append(place_NL.flatten())
        losses.append((length_losses, place_NL.numel() / (B * T)))
    y_PD = torch.cat(outputs)[torch.cat(places).argsort()]
    return y_PD.view(B, T, D).transpose(1, 2), mean_losses(losses)
