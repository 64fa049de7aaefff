"""Recall heads: modes that are written and read by content.

    S_t = exp(log_decay_t) S_(t-1) + k_t v_t^T,    y_t = q_t^T S_t

q and k carry rotary phases, so each pair of key channels is a damped rotating mode; the decay
depends on the data. Evaluated chunkwise with matrix products, or one token at a time.

Shape letters: B batch, T time (tokens), J chunk, N = B J rows, C time inside a chunk, H head, K key
channels, V value channels.

Source: gated linear attention (Yang et al. 2024, arXiv 2312.06635) with one decay per head, as in
Mamba-2 (Dao and Gu 2024, arXiv 2405.21060).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.recall.op import recall_local, recall_read, recall_state
from spectral.sequence.documents import ChunkDocuments
from spectral.sequence.span import WHOLE, Span


def recall(
    q_NHCK: Tensor,
    k_NHCK: Tensor,
    v_NHCV: Tensor,
    log_decay_BTH: Tensor,
    documents: ChunkDocuments | None = None,
    state_BHKV: Tensor | None = None,
    span: Span = WHOLE,
) -> tuple[Tensor, Tensor]:
    """Chunkwise form: matrix products inside a chunk, the carried state for everything older.

    Args:
        q_NHCK: Queries, rotated, in chunks of any length: the result does not depend on it.
        k_NHCK: Keys, rotated; zero past the end of the sequence.
        v_NHCV: Values.
        log_decay_BTH: Logarithm of each token's decay, at most 0.
        documents: Borders in chunks of C tokens; nothing crosses a border.
        state_BHKV: State after the tokens before this sequence (zero if None).
        span: How states reach later chunks.

    Returns:
        (y_BTHV, the state after the last token [B, H, K, V]).

    Cost: O(B T H (C (K + V) + K V)) time, O(B T H (C + K V / C)) memory.
    """
    (N, H, C, K), V = q_NHCK.shape, v_NHCV.shape[-1]
    B, T, _ = log_decay_BTH.shape
    J = N // B
    # time past the end neither writes (k = 0) nor decays (log 1 = 0): the final state is exact
    log_decay_BTH = F.pad(log_decay_BTH, (0, 0, 0, J * C - T))
    total = log_decay_BTH.view(B, J, C, H).transpose(2, 3).cumsum(-1).flatten(0, 1)

    write_NHC = (total[..., -1:] - total).exp()
    read_NHC = total.exp()
    decay_BJH = total[..., -1].exp().view(B, J, H)
    segment_NC = None
    if documents is not None:
        segment_NC = documents.segment_BJC.flatten(0, 1)
        write_NHC = write_NHC * documents.after_last_BJC.flatten(0, 1)[:, None]
        read_NHC = read_NHC * documents.before_first_BJC.flatten(0, 1)[:, None]
        decay_BJH = decay_BJH * documents.keep_BJ[..., None]
    update = recall_state(k_NHCK, v_NHCV, write_NHC)
    if state_BHKV is None:
        state_BHKV = update.new_zeros(B, H, K, V)
    carry = span.start_carry(decay_BJH, update.view(B, J, H, K * V), state_BHKV.flatten(-2))

    y = recall_local(q_NHCK, k_NHCK, v_NHCV, total, segment_NC)
    incoming, final = carry.wait()
    y = recall_read(q_NHCK, read_NHC, incoming.view(N, H, K, V), y)
    y_BTHV = y.transpose(1, 2).reshape(B, J * C, H, V)[:, :T]
    return y_BTHV, final.unflatten(-1, (K, V))


def recall_step(
    q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, log_decay_BH: Tensor, state_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """Recurrent form: one token. Constant time and memory: O(B H K V)."""
    decay = log_decay_BH.exp()[..., None, None]
    state_BHKV = decay * state_BHKV + k_BHK[..., :, None] * v_BHV[..., None, :]
    return torch.einsum("bhk,bhkv->bhv", q_BHK, state_BHKV), state_BHKV
