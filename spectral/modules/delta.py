"""Delta heads: recall heads that erase what a key held before they write to it.

    S_t = a_t (I - k_t e_t^T) R_t S_(t-1) + k_t u_t^T      y_t = q_t^T S_t

with keys of unit length, e_t = b_t k_t and u_t = b_t v_t. With a write strength b_t in (0, 2) the
transition has eigenvalues in (-1, 1) where the key lies: a state can flip, so it can count. R_t
rotates pairs of channels by data-dependent angles (`spectral/modules/rotary.py`); static phases
are in q, k and e.

Shape letters: B batch, T time (tokens), J chunk, N = B J rows, C time inside a chunk, H head, K key
channels, V value channels, F = K / 2 pairs of channels.

Source: gated DeltaNet (Yang et al. 2024, arXiv 2412.06464); negative eigenvalues from Grazzi et al.
2024 (arXiv 2411.12537); separate erase keys from GDN-2 (arXiv 2605.22791).
"""

import torch
from torch import Tensor

from kernels.delta.op import delta_write
from kernels.recall.op import recall_local, recall_read, recall_state
from spectral.modules.recall import chunk_decays, turned_state
from spectral.modules.rotary import Turns
from spectral.sequence.documents import ChunkDocuments
from spectral.sequence.span import WHOLE, Span


def delta(
    q_NHCK: Tensor,
    k_NHCK: Tensor,
    e_NHCK: Tensor,
    u_NHCV: Tensor,
    log_decay_BTH: Tensor,
    documents: ChunkDocuments | None = None,
    state_BHKV: Tensor | None = None,
    span: Span = WHOLE,
    turns: Turns | None = None,
) -> tuple[Tensor, Tensor]:
    """Chunkwise form: a triangular system and matrix products inside a chunk.

    Args:
        q_NHCK: Queries, rotated, in chunks of any length: the result does not depend on it.
        k_NHCK: Keys, rotated; zero past the end of the sequence.
        e_NHCK: Erase keys, rotated; zero past the end.
        u_NHCV: Values times write strength.
        log_decay_BTH: Logarithm of each token's decay, at most 0.
        documents: Borders in chunks of C tokens; nothing crosses a border.
        state_BHKV: State after the tokens before this sequence (zero if None).
        span: Carries states to later chunks.
        turns: Data-dependent rotation of q, k and e since each chunk's beginning.

    Returns:
        (y_BTHV, the state after the last token [B, H, K, V]).

    Cost: O(B T H (C (K + V) + C^2 + K (K + V))) time, O(B T H (C + K (K + V) / C)) memory.
    """
    (N, H, C, K), V = k_NHCK.shape, u_NHCV.shape[-1]
    B, T, _ = log_decay_BTH.shape
    J = N // B
    decays = chunk_decays(log_decay_BTH, C, documents)
    # what a token writes is w - L S, for the state S before its chunk
    w_NHCV, l_NHCK = delta_write(
        k_NHCK, e_NHCK, u_NHCV, decays.total_NHC, decays.read_NHC, decays.segment_NC
    )
    update_BJHKV = recall_state(k_NHCK, w_NHCV, decays.write_NHC).unflatten(0, (B, J))
    erased_BJHKK = recall_state(k_NHCK, l_NHCK, decays.write_NHC).unflatten(0, (B, J))
    kept_BJHKK = torch.diag_embed(decays.decay_BJH[..., None].expand(-1, -1, -1, K))
    transition_BJHKK = kept_BJHKK - erased_BJHKK
    if turns is not None:
        transition_BJHKK, update_BJHKV = map(turns.at_end, (transition_BJHKK, update_BJHKV))
    if state_BHKV is None:
        state_BHKV = update_BJHKV.new_zeros(B, H, K, V)
    carry = span.start_matrix_carry(transition_BJHKK, update_BJHKV, state_BHKV)
    incoming_BJHKV, final_BHKV = carry.wait()
    incoming_NHKV = incoming_BJHKV.flatten(0, 1)
    minus_NHC = torch.full_like(decays.total_NHC, -1.0)
    w_NHCV = recall_read(l_NHCK, minus_NHC, incoming_NHKV, w_NHCV)
    y = recall_local(q_NHCK, k_NHCK, w_NHCV, decays.total_NHC, decays.segment_NC)
    y = recall_read(q_NHCK, decays.read_NHC, incoming_NHKV, y)
    return y.transpose(1, 2).reshape(B, J * C, H, V)[:, :T], final_BHKV


def delta_step(
    q_BHK: Tensor,
    k_BHK: Tensor,
    e_BHK: Tensor,
    u_BHV: Tensor,
    log_decay_BH: Tensor,
    state_BHKV: Tensor,
    angle_BHF: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Recurrent form: one token. Constant time and memory: O(B H K V).

    Angles from the data turn the state, not q, k and e.
    """
    state_BHKV = turned_state(log_decay_BH.exp()[..., None, None] * state_BHKV, angle_BHF)
    u_BHV = u_BHV - torch.einsum("bhk,bhkv->bhv", e_BHK, state_BHKV)
    state_BHKV = state_BHKV + k_BHK[..., :, None] * u_BHV[..., None, :]
    return torch.einsum("bhk,bhkv->bhv", q_BHK, state_BHKV), state_BHKV
