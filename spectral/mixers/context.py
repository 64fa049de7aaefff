"""Context of a sequence, shared by all layers: positions, documents and layout.

Shape letters: B batch, T time (tokens), F rotary frequencies, W tokens before the sequence.
"""

from typing import Any, NamedTuple

from torch import Tensor

from spectral.config import ModelConfig
from spectral.layout import SINGLE_DEVICE, Layout
from spectral.modules.rotary import rotary_phases
from spectral.sequence.documents import ChunkDocuments, check_segment_ids, chunk_documents


class SequenceContext(NamedTuple):
    """Positions, documents and layout of a sequence, computed once per forward pass.

    Attributes:
        position: Number of tokens before this sequence.
        cos_TF, sin_TF: Rotary phases of the tokens' positions.
        segment_ids_BT: Document numbers, or None for one document per row.
        documents: Borders by chunk length; empty if segment_ids_BT is None.
        layout: Layers' access to other devices.
        before_BW: Document numbers of the preceding tokens; None if they are in the first document.
        backward: Context of the same sequence read backwards, whose positions count from its end;
            None in a causal model.
        source: What blocks of a decoder read of sources, `SourceTokens` or `SourceStates` of
            `spectral/mixers/fusion.py`; None without sources.
    """

    position: int
    cos_TF: Tensor
    sin_TF: Tensor
    segment_ids_BT: Tensor | None
    documents: dict[int, ChunkDocuments]
    layout: Layout = SINGLE_DEVICE
    before_BW: Tensor | None = None
    backward: "SequenceContext | None" = None
    source: Any = None


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
        config: Configuration of the model.
        layout: Layout of the model, which locates this part of the sequence.
        like: A tensor [B, ...] of the wanted dtype and device.
        position: Number of tokens before the first one.
        num_tokens: Number of tokens T.
        segment_ids_BT: Document number of each token; None: every row is one document.

    Raises:
        ValueError: Segment ids have another shape, or decrease.
    """
    if segment_ids_BT is not None:
        check_segment_ids(segment_ids_BT, like.shape[0], num_tokens)
    context = _one_direction(config, layout, like, position, num_tokens, segment_ids_BT)
    if config.causal:
        return context
    reverse = layout._replace(span=layout.span.reversed())
    if segment_ids_BT is not None:
        segment_ids_BT = segment_ids_BT.flip(1)
    position = reverse.span.position(num_tokens)
    backward = _one_direction(config, reverse, like, position, num_tokens, segment_ids_BT)
    return context._replace(backward=backward)


def _one_direction(
    config: ModelConfig,
    layout: Layout,
    like: Tensor,
    position: int,
    num_tokens: int,
    segment_ids_BT: Tensor | None,
) -> SequenceContext:
    T, head_dim = num_tokens, config.dim // config.num_heads
    phases = rotary_phases(position, T, head_dim, config.rotary_base, like=like)
    if segment_ids_BT is None:
        return SequenceContext(position, *phases, None, {}, layout)
    before_BW = layout.span.before(segment_ids_BT, max(config.short_conv - 1, 1))
    chunks = {min(config.conv_chunk, T), min(config.recall_chunk, T)}
    documents = {C: chunk_documents(segment_ids_BT, C, before_BW) for C in chunks}
    return SequenceContext(position, *phases, segment_ids_BT, documents, layout, before_BW)
