"""Recall heads: modes that are written and read by content.

    S_t = exp(log_decay_t) R_t S_(t-1) + k_t v_t^T,    y_t = q_t^T S_t

q and k carry rotary phases, so each pair of key channels is a damped rotating mode; the decay
depends on the data, and so may a part of the rotation (R_t). Evaluated chunkwise with matrix
products, or one token at a time.

Shape letters: B batch, T time (tokens), J chunk, N = B J rows, C time inside a chunk, H head, K key
channels, V value channels, F = K / 2 pairs of channels.

Source: gated linear attention (Yang et al. 2024, arXiv 2312.06635) with one decay per head, as in
Mamba-2 (Dao and Gu 2024, arXiv 2405.21060); rotations from the data as in Mamba-3 (arXiv
2603.15569).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.recall.op import recall_local, recall_read, recall_state
from spectral.modules.rotary import Turns, as_complex, as_pairs, rotate
from spectral.sequence.documents import ChunkDocuments
from spectral.sequence.span import WHOLE, Span


class ChunkDecays(NamedTuple):
    """Decays inside of chunks, with the borders of documents.

    Attributes:
        total_NHC: Sum of the logarithms from the chunk's beginning to each token.
        write_NHC: Decay from each token to the chunk's end; zero if a document begins in between.
        read_NHC: Decay from the chunk's beginning to each token; zero likewise.
        decay_BJH: Decay over each chunk; zero likewise.
        segment_NC: Document numbers; None for one document.
    """

    total_NHC: Tensor
    write_NHC: Tensor
    read_NHC: Tensor
    decay_BJH: Tensor
    segment_NC: Tensor | None


def chunk_decays(
    log_decay_BTH: Tensor, chunk: int, documents: ChunkDocuments | None
) -> ChunkDecays:
    """Decays in chunks, from the logarithms of each token's decay."""
    B, T, H = log_decay_BTH.shape
    # time past the end does not decay (log 1 = 0): the final state is exact
    log_decay_BTH = F.pad(log_decay_BTH, (0, 0, 0, -T % chunk))
    total_NHC = log_decay_BTH.view(B, -1, chunk, H).transpose(2, 3).cumsum(-1).flatten(0, 1)
    write_NHC = (total_NHC[..., -1:] - total_NHC).exp()
    read_NHC = total_NHC.exp()
    decay_BJH = total_NHC[..., -1].exp().view(B, -1, H)
    if documents is None:
        return ChunkDecays(total_NHC, write_NHC, read_NHC, decay_BJH, None)
    return ChunkDecays(
        total_NHC,
        write_NHC * documents.after_last_BJC.flatten(0, 1)[:, None],
        read_NHC * documents.before_first_BJC.flatten(0, 1)[:, None],
        decay_BJH * documents.keep_BJ[..., None],
        documents.segment_BJC.flatten(0, 1),
    )


def recall(
    q_NHCK: Tensor,
    k_NHCK: Tensor,
    v_NHCV: Tensor,
    log_decay_BTH: Tensor,
    documents: ChunkDocuments | None = None,
    state_BHKV: Tensor | None = None,
    span: Span = WHOLE,
    turns: Turns | None = None,
) -> tuple[Tensor, Tensor]:
    """Chunkwise form: matrix products inside a chunk, the carried state for everything older.

    Args:
        q_NHCK: Queries, rotated, in chunks of any length: the result does not depend on it.
        k_NHCK: Keys, rotated.
        v_NHCV: Values; zero past the end of the sequence.
        log_decay_BTH: Logarithm of each token's decay, at most 0.
        documents: Borders in chunks of C tokens; nothing crosses a border.
        state_BHKV: State after the tokens before this sequence (zero if None).
        span: Carries states to later chunks.
        turns: Data-dependent rotation of q and k since each chunk's beginning.

    Returns:
        (y_BTHV, the state after the last token [B, H, K, V]).

    Cost: O(B T H (C (K + V) + K V)) time, O(B T H (C + K V / C)) memory.
    """
    (N, H, C, K), V = q_NHCK.shape, v_NHCV.shape[-1]
    B, T, _ = log_decay_BTH.shape
    J = N // B
    decays = chunk_decays(log_decay_BTH, C, documents)
    update = recall_state(k_NHCK, v_NHCV, decays.write_NHC).view(B, J, H, K, V)
    if state_BHKV is None:
        state_BHKV = update.new_zeros(B, H, K, V)
    if turns is None:
        carried = decays.decay_BJH, update.flatten(-2), state_BHKV.flatten(-2)
    else:
        # a pair of channels is one complex number, whose decay is a rotation too
        end_BJHF = turns.end_BJHF
        decay_BJHF = decays.decay_BJH[..., None] * end_BJHF
        update = as_complex(update) * end_BJHF[..., None]
        carried = decay_BJHF.flatten(2), update.flatten(2, 3), as_complex(state_BHKV).flatten(1, 2)
    carry = span.start_carry(*carried)

    y = recall_local(q_NHCK, k_NHCK, v_NHCV, decays.total_NHC, decays.segment_NC)
    incoming, final = carry.wait()
    if turns is not None:
        incoming, final = (as_pairs(i.unflatten(-2, (H, -1))) for i in (incoming, final))
    y = recall_read(q_NHCK, decays.read_NHC, incoming.reshape(N, H, K, V), y)
    y_BTHV = y.transpose(1, 2).reshape(B, J * C, H, V)[:, :T]
    return y_BTHV, final.reshape(B, H, K, V)


def recall_step(
    q_BHK: Tensor,
    k_BHK: Tensor,
    v_BHV: Tensor,
    log_decay_BH: Tensor,
    state_BHKV: Tensor,
    angle_BHF: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Recurrent form: one token. Constant time and memory: O(B H K V).

    Angles from the data turn the state, not q and k.
    """
    state_BHKV = turned_state(log_decay_BH.exp()[..., None, None] * state_BHKV, angle_BHF)
    state_BHKV = state_BHKV + k_BHK[..., :, None] * v_BHV[..., None, :]
    return torch.einsum("bhk,bhkv->bhv", q_BHK, state_BHKV), state_BHKV


def turned_state(state_BHKV: Tensor, angle_BHF: Tensor | None) -> Tensor:
    """A state in the frame of the next token, whose data-dependent angles are given."""
    if angle_BHF is None:
        return state_BHKV
    cos_BH1F, sin_BH1F = angle_BHF.cos()[..., None, :], angle_BHF.sin()[..., None, :]
    return rotate(state_BHKV.mT, cos_BH1F, -sin_BH1F).mT
