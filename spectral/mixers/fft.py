"""Hierarchical FFT, causal: near tokens by modes, far chunks by their spectra.

A chunk reads spectra of chunks that have ended, so a token changes later chunks only; inside a
chunk and next to it a modal filter mixes. The state carried across chunks holds the fused spectra,
the query of the chunk before, the V tokens that frames share and the V outputs that fade into the
next chunk.

Shape letters: B batch, T time (tokens), D channels, J chunks, C new tokens of a frame, V tokens
that frames share, F = C + V, K bins, H head, N channels of a head, G bands, R features, S numbers
of the fused state of a head, P tokens since the chunk began.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.precision import full_precision
from spectral.config import ModelConfig
from spectral.filters.modal import ModalFilter
from spectral.gates.bin_groups import build_gate
from spectral.gates.losses import GateLosses
from spectral.layout import Layout
from spectral.mixers.base import ConvolutionMixer
from spectral.mixers.context import SequenceContext
from spectral.modules.chunk_fusion import ChunkFusion, phase_rotation
from spectral.modules.frame_length import chunk_tokens
from spectral.modules.framing import Frames, add_head
from spectral.modules.transpose import channels_first, time_first
from spectral.sequence.documents import ChunkBorders, chunk_borders
from spectral.sequence.span import WHOLE, Span


class FFTState(NamedTuple):
    """State of the causal hierarchical FFT: bounded by a chunk, at any position.

    Attributes:
        near_BDM: State of the modal filter.
        recent: The V inputs before the chunk [B, D, V], then those since it began, in pieces.
        fused_BHS: Fused spectra of the chunks before.
        query_BHGR: Query of the chunk before.
        tail_BDV: Tail of that chunk, which fades into this one.
        far_BDC: Output of the chunks before, for this chunk's tokens.
    """

    near_BDM: Tensor
    recent: tuple[Tensor, ...]
    fused_BHS: Tensor
    query_BHGR: Tensor
    tail_BDV: Tensor
    far_BDC: Tensor


class FFTMixer(ConvolutionMixer):
    """Sum of near modes and the cross-faded, gated and fused spectra of earlier chunks.

    Cost: O(T D (log C + M + R)) time, O(T D R) memory; a decoded token O(D (M + log C)) on average
    over a chunk, and O(R D C) once per chunk.
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config)
        del layer
        fft = config.fft
        self.chunk, self.num_features = chunk_tokens(fft.chunk), fft.fusion_dim
        self.frames = Frames(fft.overlap)
        self.shared = self.frames.shared(self.chunk)
        self.near = ModalFilter.from_config(config, config.dim)
        self.near_chunk = config.conv_chunk
        self.fusion = ChunkFusion(config.num_heads, self.head_dim, fft.fusion_dim, fft.bands)
        self.gate = build_gate(config.gates, config.num_heads, config.num_modes)

    def convolve(
        self, u_BTD: Tensor, context: SequenceContext, past: FFTState | None
    ) -> tuple[Tensor, FFTState, GateLosses | None]:
        """Chunked form; after a state the sequence may begin anywhere in a chunk."""
        T, u_BDT = u_BTD.shape[1], channels_first(u_BTD)
        near_past = None if past is None else past.near_BDM
        near_BDT, near_BDM, _ = self.near(
            u_BDT, context.documents.get(min(self.near_chunk, T)), near_past, context.layout
        )
        far_BDT, state, losses = self._far(full_precision(u_BDT), context, past)
        y_BTD = time_first(near_BDT + far_BDT.to(near_BDT.dtype))
        return y_BTD, state._replace(near_BDM=near_BDM), losses

    def convolve_step(
        self, u_BD: Tensor, context: SequenceContext, past: FFTState
    ) -> tuple[Tensor, FFTState]:
        """Recurrent form; the FFT is evaluated once per chunk."""
        near_BD, near_BDM = self.near.step(u_BD, past.near_BDM)
        since = sum(piece.shape[-1] for piece in past.recent) - self.shared
        if since == self.chunk:
            # the chunk has ended: one token of the chunked form begins the next
            far_BDT, state, _ = self._far(u_BD[..., None], context, past)
            return near_BD + far_BDT[..., 0], state._replace(near_BDM=near_BDM)
        far_BD = past.far_BDC[..., since]
        recent = past.recent[0], *_append(past.recent[1:], u_BD[..., None])
        return near_BD + far_BD, past._replace(near_BDM=near_BDM, recent=recent)

    def _start(self, u_BDT: Tensor) -> FFTState:
        B, D, _ = u_BDT.shape
        H, C, R, V = self.num_heads, self.chunk, self.num_features, self.shared
        fused = u_BDT.new_zeros(B, H, R * (D // H) * ((C + V) // 2 + 1))
        return FFTState(
            near_BDM=fused[..., :0],
            recent=(u_BDT.new_zeros(B, D, V),),
            fused_BHS=torch.complex(fused, fused),
            query_BHGR=u_BDT.new_zeros(B, H, self.fusion.num_bands, R),
            tail_BDV=u_BDT.new_zeros(B, D, V),
            far_BDC=u_BDT.new_zeros(B, D, C),
        )

    def _far(
        self, u_BDT: Tensor, context: SequenceContext, past: FFTState | None
    ) -> tuple[Tensor, FFTState, GateLosses | None]:
        B, D, T = u_BDT.shape
        C, V = self.chunk, self.shared
        begin = self._start(u_BDT) if past is None else past
        recent_BDP = torch.cat(begin.recent, dim=-1)
        u_BDS = torch.cat([recent_BDP[..., V:], u_BDT], dim=-1)
        since = u_BDS.shape[-1] - T
        J = -(-(since + T) // C)
        borders = self._borders(context, since)
        if since + T < C and context.layout.span is WHOLE and not torch.is_grad_enabled():
            return self._inside_chunk(u_BDS, recent_BDP[..., :V], borders, begin, T)
        new_BJDC = F.pad(u_BDS, (0, J * C - since - T)).view(B, D, J, C).transpose(1, 2)
        keep_BJ = u_BDT.new_ones(B, J)
        if borders is not None:
            new_BJDC = new_BJDC * borders.after_last_BJC[:, :, None]
            keep_BJ = borders.keep_BJ.to(u_BDT.dtype)
        span = context.layout.span
        shared_BJDV = _from_before(new_BJDC[..., C - V :], recent_BDP[..., :V], span)
        shared_BJDV = shared_BJDV * keep_BJ[..., None, None]

        frames_BJDF = torch.cat([shared_BJDV, new_BJDC], dim=-1)
        phase_JK = phase_rotation((context.position - since) // C, J + 1, C, C + V, like=u_BDT)
        far_BJDF, fused_BJHS, query_BJHGR, losses = self._fuse(
            frames_BJDF, keep_BJ, phase_JK, begin, context.layout
        )
        tail_BJDV = far_BJDF[..., C:] * keep_BJ[..., None, None]
        tail_BJDV = _from_before(tail_BJDV, begin.tail_BDV, span)
        far_BJDC = add_head(far_BJDF[..., :C], tail_BJDV)

        last_keep = keep_BJ[:, -1, None, None]
        filled = since + T - (J - 1) * C
        state = FFTState(
            near_BDM=begin.near_BDM,
            recent=(shared_BJDV[:, -1], new_BJDC[:, -1, :, :filled]),
            fused_BHS=fused_BJHS[:, -1] * last_keep,
            query_BHGR=query_BJHGR[:, -1],
            tail_BDV=tail_BJDV[:, -1] * last_keep,
            far_BDC=far_BJDC[:, -1] * last_keep,
        )
        if borders is not None:
            far_BJDC = far_BJDC * borders.before_first_BJC[:, :, None]
        far_BDS = far_BJDC.transpose(1, 2).flatten(-2)
        return far_BDS[..., since : since + T], state, losses

    def _inside_chunk(
        self,
        u_BDS: Tensor,
        shared_BDV: Tensor,
        borders: ChunkBorders | None,
        begin: FFTState,
        num_tokens: int,
    ) -> tuple[Tensor, FFTState, None]:
        """`_far` of tokens that complete no chunk: no spectrum is computed."""
        S = u_BDS.shape[-1]
        far_BDS = begin.far_BDC[..., :S]
        if borders is not None:
            far_BDS = far_BDS * borders.before_first_BJC[:, :, :S]
            u_BDS = u_BDS * borders.after_last_BJC[:, :, :S]
            keep_B11 = borders.keep_BJ[:, :, None].to(u_BDS.dtype)
            shared_BDV = shared_BDV * keep_B11
            begin = begin._replace(
                fused_BHS=begin.fused_BHS * keep_B11,
                tail_BDV=begin.tail_BDV * keep_B11,
                far_BDC=begin.far_BDC * keep_B11,
            )
        return far_BDS[..., S - num_tokens :], begin._replace(recent=(shared_BDV, u_BDS)), None

    def _fuse(
        self,
        frames_BJDF: Tensor,
        keep_BJ: Tensor,
        phase_JK: Tensor,
        begin: FFTState,
        layout: Layout,
    ) -> tuple[Tensor, Tensor, Tensor, GateLosses | None]:
        """(Output of earlier chunks for each chunk, fused states, queries, losses) of frames."""
        spectra_BJHNK = self.frames.spectra(frames_BJDF).unflatten(2, (self.num_heads, -1))
        query_BJHGR, key_BJHGR = self.fusion.features(spectra_BJHNK)
        # a frame is read F tokens later, in the next chunk: whole periods of every bin
        update_BJHS = self.fusion.write(spectra_BJHNK, key_BJHGR, phase_JK[1:])
        decay_BJH = (keep_BJ[..., None] * self.fusion.decay()).to(update_BJHS.dtype)
        carry = layout.span.start_carry(decay_BJH, update_BJHS, begin.fused_BHS)
        fused_BJHS, _ = carry.wait()
        query_BJHGR = _from_before(query_BJHGR, begin.query_BHGR, layout.span)
        read_BJHNK = self.fusion.read(fused_BJHS, query_BJHGR, phase_JK[:-1])
        read_BJHNK = read_BJHNK * self.fusion.scales(read_BJHNK.shape[-1])[:, None]
        losses = None
        if self.gate is not None:
            read_BJHNK, losses = self.gate(read_BJHNK, layout)
        far_BJDF = torch.fft.irfft(read_BJHNK.flatten(2, 3), n=self.chunk + self.shared)
        far_BJDF = far_BJDF * self.frames.weights(self.chunk)[0]
        return far_BJDF, fused_BJHS, query_BJHGR, losses

    def _borders(self, context: SequenceContext, since: int) -> ChunkBorders | None:
        segments_BT = context.segment_ids_BT
        if segments_BT is None:
            return None
        earlier_BP = segments_BT[:, :1].expand(-1, since)
        segments_BS = torch.cat([earlier_BP, segments_BT], dim=1)
        return chunk_borders(segments_BS, self.chunk, context.before_BW)


def _from_before(values_BJ: Tensor, initial_B: Tensor, span: Span) -> Tensor:
    """The values of the chunk before each chunk, through the same carry as states."""
    B, J = values_BJ.shape[:2]
    carry = span.start_carry(
        values_BJ.new_zeros(B, J, 1), values_BJ.reshape(B, J, 1, -1), initial_B.reshape(B, 1, -1)
    )
    return carry.wait()[0].view(values_BJ.shape)


def _append(pieces: tuple[Tensor, ...], new: Tensor) -> list[Tensor]:
    """Pieces with a new one at the end, merged like the digits of a binary counter."""
    merged = [*pieces, new]
    while len(merged) > 1 and merged[-1].shape[-1] >= merged[-2].shape[-1]:
        last = merged.pop()
        merged[-1] = torch.cat([merged[-1], last], dim=-1)
    return merged
