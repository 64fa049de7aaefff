"""Recall heads of a layer: from projections to mixed values, by either rule.

Shape letters: B batch, T time (tokens), R channels of all recall heads, N rows (batch times
chunks), H head, C time inside a chunk, K channels of a head, F = K / 2 pairs of channels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from kernels.precision import full_precision
from kernels.recall_qkv.op import recall_inputs
from spectral.mixers.context import SequenceContext
from spectral.modules.delta import delta, delta_step
from spectral.modules.recall import recall, recall_step
from spectral.modules.rotary import chunk_turns, rotate


class RecallControls(NamedTuple):
    """Controls of recall heads at each token, besides its queries, keys and values.

    Attributes:
        log_decay_BTH: Logarithm of each head's decay, at most 0.
        strength_BTH: Write strength of delta heads; None for heads that only add.
        erase_BTHK: Strength with which delta heads erase along each key channel; None: as they
            write.
        angle_BTHF: Rotation of each pair of channels, besides that by its position.
    """

    log_decay_BTH: Tensor
    strength_BTH: Tensor | None = None
    erase_BTHK: Tensor | None = None
    angle_BTHF: Tensor | None = None


class _Vectors(NamedTuple):
    """Queries, keys, erase keys and values as they are written; no erase keys without delta."""

    q_NHCK: Tensor
    k_NHCK: Tensor
    e_NHCK: Tensor | None
    u_NHCK: Tensor


def mix_recall(
    qkv_BT3R: Tensor,
    controls: RecallControls,
    bias_2R: Tensor | None,
    context: SequenceContext,
    chunk: int,
    past_BHKK: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Chunkwise form: (y_BTHK, state after the last token [B, H, K, K]).

    Args:
        qkv_BT3R: Projections.
        controls: Controls of every token.
        bias_2R: Added to the directions of queries and keys; None for none.
        context: Positions, documents and layout.
        chunk: Tokens per chunk C.
        past_BHKK: State before the sequence; None for zero.
    """
    q, k, e, u = _vectors(qkv_BT3R, controls, bias_2R, context, chunk)
    turns = None
    if controls.angle_BTHF is not None:
        turns = chunk_turns(controls.angle_BTHF, chunk)
        q, k = turns.turned(q), turns.turned(k)
        e = None if e is None else turns.turned(e)
    carried = (
        controls.log_decay_BTH, context.documents.get(chunk), past_BHKK, context.layout.span, turns
    )  # fmt: skip
    return recall(q, k, u, *carried) if e is None else delta(q, k, e, u, *carried)


def mix_recall_step(
    qkv_B3R: Tensor,
    controls: RecallControls,
    bias_2R: Tensor | None,
    context: SequenceContext,
    past_BHKK: Tensor,
) -> tuple[Tensor, Tensor]:
    """Recurrent form: (y_BHK, state) after one token, whose controls have T = 1."""
    vectors = _vectors(qkv_B3R[:, None], controls, bias_2R, context, 1)
    q, k, e, u = (None if i is None else i[:, :, 0] for i in vectors)
    angle_BHF = None if controls.angle_BTHF is None else controls.angle_BTHF[:, 0]
    carried = controls.log_decay_BTH[:, 0], past_BHKK, angle_BHF
    assert q is not None
    assert k is not None
    assert u is not None
    return recall_step(q, k, u, *carried) if e is None else delta_step(q, k, e, u, *carried)


def _vectors(
    qkv_BT3R: Tensor,
    controls: RecallControls,
    bias_2R: Tensor | None,
    context: SequenceContext,
    chunk: int,
) -> _Vectors:
    num_heads = controls.log_decay_BTH.shape[-1]
    cos_TF, sin_TF = context.cos_TF, context.sin_TF
    erase = None
    if controls.erase_BTHK is not None:
        erase = _in_chunks(controls.erase_BTHK, chunk)
    if bias_2R is None and erase is None:
        q, k, v = recall_inputs(qkv_BT3R, cos_TF, sin_TF, num_heads, chunk)
        e = k
    else:
        # what comes between length and rotation
        still = torch.ones_like(cos_TF), torch.zeros_like(sin_TF)
        q, k, v = recall_inputs(qkv_BT3R, *still, num_heads, chunk)
        if bias_2R is not None:
            q_bias, k_bias = bias_2R.unflatten(-1, (num_heads, 1, -1))
            q, k = _biased(q, q_bias), _biased(k, k_bias)
        e = k if erase is None else (k * erase).to(k.dtype)
        B = len(qkv_BT3R)
        cos, sin = (_in_chunks(i[None, :, None].expand(B, -1, -1, -1), chunk) for i in
                    (cos_TF, sin_TF))  # fmt: skip
        q, k, e = (rotate(i, cos, sin) for i in (q, k, e))
    if controls.strength_BTH is None:
        return _Vectors(q, k, None, v)
    # zero past the end, where nothing is erased or written
    strength = _in_chunks(controls.strength_BTH[..., None], chunk)
    if erase is None:
        e = (k * strength).to(k.dtype)
    return _Vectors(q, k, e, (v * strength).to(v.dtype))


def _biased(x_NHCK: Tensor, bias_H1K: Tensor) -> Tensor:
    """Vectors plus their head's bias, of unit length again."""
    return nnf.normalize(full_precision(x_NHCK) + bias_H1K, dim=-1).to(x_NHCK.dtype)


def _in_chunks(x_BTHX: Tensor, chunk: int) -> Tensor:
    """Numbers of each token and head in chunks, zeros past the end: [N, H, C, X]."""
    padded = nnf.pad(x_BTHX, (0, 0, 0, 0, 0, -x_BTHX.shape[1] % chunk))
    return padded.unflatten(1, (-1, chunk)).transpose(2, 3).flatten(0, 1)
