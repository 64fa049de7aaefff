"""What all layers need to know of the sequence that they mix.

Shape letters: B batch, T time (tokens), F rotary frequencies, W tokens before the sequence.
"""

from typing import NamedTuple

from torch import Tensor

from spectral.config import ModelConfig
from spectral.layout import SINGLE_DEVICE, Layout
from spectral.modules.rotary import rotary_phases
from spectral.sequence.documents import ChunkDocuments, check_segment_ids, chunk_documents


class SequenceContext(NamedTuple):
    """What every mixer of a model needs to know of the sequence, computed once per forward.

    Attributes:
        position: Tokens before this sequence.
        cos_TF, sin_TF: Rotary phases of the tokens' positions.
        segment_ids_BT: Document numbers, or None for one document per row.
        documents: Borders by chunk length; empty if segment_ids_BT is None.
        layout: How layers reach other devices.
        before_BW: Document numbers of the tokens before; None if they are of the first one.
    """

    position: int
    cos_TF: Tensor
    sin_TF: Tensor
    segment_ids_BT: Tensor | None
    documents: dict[int, ChunkDocuments]
    layout: Layout = SINGLE_DEVICE
    before_BW: Tensor | None = None


def sequence_context(
    config: ModelConfig,
    layout: Layout,
    like: Tensor,
    position: int,
    num_tokens: int,
    segment_ids_BT: Tensor | None,
) -> SequenceContext:
    """The context of `num_tokens` tokens from `position` on.

    Args:
        config: Of the model.
        layout: Of the model; says which part of the sequence this is.
        like: A tensor [B, ...] of the wanted dtype and device.
        position: Tokens before it.
        num_tokens: T.
        segment_ids_BT: Document number of each token; None: every row is one document.

    Raises:
        ValueError: Segment ids of another shape, or that go back.
    """
    T, head_dim = num_tokens, config.dim // config.num_heads
    phases = rotary_phases(position, T, head_dim, config.rotary_base, like=like)
    if segment_ids_BT is None:
        return SequenceContext(position, *phases, None, {}, layout)
    check_segment_ids(segment_ids_BT, like.shape[0], T)
    before_BW = layout.span.before(segment_ids_BT, max(config.short_conv - 1, 1))
    chunks = {min(config.conv_chunk, T), min(config.recall_chunk, T)}
    documents = {C: chunk_documents(segment_ids_BT, C, before_BW) for C in chunks}
    return SequenceContext(position, *phases, segment_ids_BT, documents, layout, before_BW)
