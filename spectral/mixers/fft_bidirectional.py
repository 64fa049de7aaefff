"""Hierarchical FFT, bidirectional: gates and fusion act on the actual spectrum of every chunk.

Shape letters: B batch, T time (tokens), D channels, J chunks, H head, N channels of a head, K bins,
S numbers of the fused state of a head.
"""

import torch
from torch import Tensor

from spectral.config import ModelConfig
from spectral.filters.two_sided import TwoSidedFilter
from spectral.gates.bin_groups import build_gate
from spectral.gates.losses import GateLosses, mean_losses
from spectral.layout import HeadGroup, Layout
from spectral.mixers.base import ConvolutionMixer
from spectral.mixers.context import SequenceContext
from spectral.mixers.per_document import mix_whole
from spectral.modules.chunk_fusion import ChunkFusion, phase_rotation
from spectral.modules.frame_length import chunk_tokens
from spectral.modules.framing import Frames
from spectral.sequence.span import WHOLE


class FFTEncoderMixer(ConvolutionMixer):
    """Two-sided modes + synthesis of (chunk's spectrum + fused spectra of all other chunks).

    A sequence of up to `fft.direct` tokens is one frame; longer ones are cut into chunks of
    `fft.chunk`. Cost: O(T D (log C + M + R)).
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config)
        del layer
        fft = config.fft
        self.chunk, self.direct = chunk_tokens(fft.chunk), fft.direct
        self.near = TwoSidedFilter(config, config.num_heads, config.dim)
        self.frames = Frames(fft.overlap)
        self.fusion = ChunkFusion(config.num_heads, self.head_dim, fft.fusion_dim, fft.bands)
        self.gate = build_gate(config.gates, config.num_heads, config.num_modes)

    def convolve(
        self, u_BTD: Tensor, context: SequenceContext, past: None
    ) -> tuple[Tensor, None, GateLosses | None]:
        """Mix every document in both directions."""
        del past
        y_BTD, losses = mix_whole(self._mix, u_BTD, context)
        return y_BTD, None, losses

    def _mix(self, u_BDT: Tensor, layout: Layout) -> tuple[Tensor, GateLosses | None]:
        near_BDT, near_losses = self.near(u_BDT, layout)
        T = u_BDT.shape[-1]
        C = T if self.direct >= T else min(self.chunk, T)
        spectra_BJHNK = self.frames.analysis(u_BDT, C).unflatten(2, (-1, self.head_dim))
        read_BJHNK = self._fuse(spectra_BJHNK, C, u_BDT, layout.heads)
        losses = None
        if self.gate is not None:
            read_BJHNK, losses = self.gate(read_BJHNK, layout)
        far_BDT = self.frames.synthesis(read_BJHNK.flatten(2, 3), C, T)
        return near_BDT + far_BDT, mean_losses([(near_losses, 1.0), (losses, 1.0)])

    def _fuse(self, spectra_BJHNK: Tensor, chunk: int, like: Tensor, heads: HeadGroup) -> Tensor:
        B, J = spectra_BJHNK.shape[:2]
        phase_JK = phase_rotation(0, J, chunk, chunk + self.frames.shared(chunk), like=like)
        query_BJHGR, key_BJHGR = self.fusion.features(spectra_BJHNK, heads)
        update_BJHS = self.fusion.write(spectra_BJHNK, key_BJHGR, phase_JK)
        decay_BJH = self.fusion.decay(heads).to(update_BJHS.dtype).expand(B, J, -1)
        start_BHS = torch.zeros_like(update_BJHS[:, 0])
        before_BJHS, _ = WHOLE.start_carry(decay_BJH, update_BJHS, start_BHS).wait()
        after_BJHS, _ = WHOLE.start_carry(decay_BJH, update_BJHS.flip(1), start_BHS).wait()
        others_BJHS = before_BJHS + after_BJHS.flip(1)
        read_BJHNK = spectra_BJHNK + self.fusion.read(others_BJHS, query_BJHGR, phase_JK)
        return read_BJHNK * self.fusion.scales(read_BJHNK.shape[-1], heads)[:, None]
