"""Document borders of a packed sequence, in the chunks of a mixer.

Shape letters: B batch, T time (tokens), J chunk, C time inside a chunk, E document starts that
lie strictly inside a chunk.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ChunkBorders(NamedTuple):
    """Document starts in chunks, as masks need them; other fields as in `ChunkDocuments`.

    Attributes:
        starts_BJC: True at a document's first token.
        count_BJC: Number of documents that began in the chunk, up to and including each token.
    """

    segment_BJC: Tensor
    starts_BJC: Tensor
    count_BJC: Tensor
    before_first_BJC: Tensor
    after_last_BJC: Tensor
    keep_BJ: Tensor


class ChunkDocuments(NamedTuple):
    """Document borders of a batch, cut into chunks.

    Attributes:
        segment_BJC: Document number of each token.
        before_first_BJC: True before the chunk's first start, where the incoming state is read.
        after_last_BJC: True from the chunk's last start on (everywhere, if it has none), at
            tokens that the outgoing state contains.
        keep_BJ: True where no document starts, so the incoming state survives the chunk.
        row_E: Flat chunk number b * J + j of each start that has tokens before it in its chunk.
        start_E: Position of that start in the chunk.
        stop_E: Position of the next start in the chunk, or C.
    """

    segment_BJC: Tensor
    before_first_BJC: Tensor
    after_last_BJC: Tensor
    keep_BJ: Tensor
    row_E: Tensor
    start_E: Tensor
    stop_E: Tensor


def check_segment_ids(segment_ids_BT: Tensor, batch: int, length: int) -> None:
    """Refuse segment ids that the mixers would misread.

    Raises:
        ValueError: The shape differs from the tokens', the ids are no integers, or one is smaller
            than the one before.
    """
    if segment_ids_BT.shape != (batch, length):
        raise ValueError(
            f"segment_ids: expected shape {(batch, length)}, got {tuple(segment_ids_BT.shape)}"
        )
    if segment_ids_BT.is_floating_point() or segment_ids_BT.is_complex():
        raise ValueError(f"segment_ids: expected integers, got {segment_ids_BT.dtype}")
    falls_BT = segment_ids_BT[:, 1:] < segment_ids_BT[:, :-1]
    if falls_BT.any():
        row, column = (int(i) for i in falls_BT.nonzero()[0])
        before, after = segment_ids_BT[row, column : column + 2].tolist()
        raise ValueError(
            f"segment_ids: ids must not go back, got {before} then {after} "
            f"at row {row}, position {column + 1}"
        )


def chunk_borders(
    segment_ids_BT: Tensor, chunk: int, before_BW: Tensor | None = None
) -> ChunkBorders:
    """Document starts of every chunk, as in `chunk_documents`.

    Cost: O(B T), no synchronisation.
    """
    B, T = segment_ids_BT.shape
    J = -(-T // chunk)
    # replicate padding exists for floating point only
    last_B1 = segment_ids_BT[:, -1:].expand(B, J * chunk - T)
    padded_BT = torch.cat([segment_ids_BT, last_B1], dim=1)
    before_B1 = padded_BT[:, :1] if before_BW is None else before_BW[:, -1:]
    starts_BJC = (torch.diff(padded_BT, prepend=before_B1) != 0).view(B, J, chunk)
    count_BJC = starts_BJC.cumsum(dim=-1)
    total_BJ1 = count_BJC[..., -1:]
    return ChunkBorders(
        segment_BJC=padded_BT.view(B, J, chunk),
        starts_BJC=starts_BJC,
        count_BJC=count_BJC,
        before_first_BJC=count_BJC == 0,
        after_last_BJC=count_BJC == total_BJ1,
        keep_BJ=total_BJ1[..., 0] == 0,
    )


def chunk_documents(
    segment_ids_BT: Tensor, chunk: int, before_BW: Tensor | None = None
) -> ChunkDocuments:
    """Document borders of every chunk.

    Time past the end of the sequence, in the last chunk, continues the last document.

    Args:
        segment_ids_BT: Document number of each token, integers that never fall along a row.
        chunk: Chunk length C in tokens.
        before_BW: Document numbers of the preceding tokens; if None, the first token continues the
            document of the incoming state.

    Cost: O(B T + E C).
    """
    borders = chunk_borders(segment_ids_BT, chunk, before_BW)
    count_NC, starts_NC = (i.flatten(0, 1) for i in (borders.count_BJC, borders.starts_BJC))
    row_E, start_E = starts_NC.nonzero(as_tuple=True)
    inside = start_E > 0
    row_E, start_E = row_E[inside], start_E[inside]
    same_EC = count_NC[row_E] == count_NC[row_E, start_E][:, None]
    return ChunkDocuments(
        segment_BJC=borders.segment_BJC,
        before_first_BJC=borders.before_first_BJC,
        after_last_BJC=borders.after_last_BJC,
        keep_BJ=borders.keep_BJ,
        row_E=row_E,
        start_E=start_E,
        stop_E=start_E + same_EC.sum(-1),
    )
