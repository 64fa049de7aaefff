"""The sequence mixer of a block: convolution heads and recall heads side by side.

Shape letters: B batch, T time (tokens), D channels of the model, I channels of the convolution
heads, R channels of the recall heads (I + R = D), H recall heads, K channels of a head, W taps.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.norm_gate.op import norm_gate
from kernels.recall_qkv.op import recall_inputs
from spectral.config import ModelConfig
from spectral.filters.gated import GatedFilter, GatedState
from spectral.filters.modal import ModalFilter
from spectral.gates.losses import GateLosses
from spectral.gates.spectral_gate import uses_gates
from spectral.layer_pattern import num_conv_heads
from spectral.mixers.context import SequenceContext
from spectral.modules.recall import recall, recall_step
from spectral.modules.short_conv import ShortConv
from spectral.modules.transpose import channels_first, time_first
from spectral.sequence.span import WHOLE, Span


class MixerState(NamedTuple):
    """What a mixer remembers of the past: constant in size.

    Attributes:
        short_BWD: Last W - 1 inputs of the short convolution, 3 D channels.
        modes: State of the convolution heads' modes, complex [B, I, M], or a gated filter's states.
        recall_BHKK: State of the recall heads.
    """

    short_BWD: Tensor
    modes: Tensor | GatedState
    recall_BHKK: Tensor


def full_precision(z: Tensor) -> Tensor:
    """In float32 at least: states, phases and spectra need it, whatever autocast made of z."""
    return z.float() if z.dtype in (torch.bfloat16, torch.float16) else z


class HeadsMixer(nn.Module):
    """Mix a sequence causally in O(T log C) with C-sized FFTs and a constant-size state.

    Convolution heads: y = q * (h conv (k * v)), h a sum of modes per channel. Recall heads: modes
    written and read by content. Both: projections through a short convolution, each head's output
    normalised and gated by silu of a linear map of the input.
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        D, H = config.dim, config.num_heads
        self.head_dim, self.norm_eps = D // H, config.norm_eps
        self.num_conv = num_conv_heads(config, layer)
        self.num_recall = H - self.num_conv
        self.conv_dim = self.num_conv * self.head_dim
        self.conv_chunk, self.recall_chunk = config.conv_chunk, config.recall_chunk
        self.max_time_constant = config.max_time_constant
        self.in_proj = nn.Linear(D, 4 * D, bias=False)
        self.short_conv = ShortConv(3 * D, config.short_conv)
        self.filter: ModalFilter | GatedFilter | None = None
        if self.num_conv and uses_gates(config):
            self.filter = GatedFilter(config, self.num_conv, self.conv_dim)
        elif self.num_conv:
            self.filter = ModalFilter(
                self.conv_dim, config.num_modes, config.conv_chunk, config.max_time_constant
            )
        self.decay_proj = nn.Linear(D, self.num_recall) if self.num_recall else None
        self.head_norm = nn.Parameter(torch.ones(D))
        self.out_proj = nn.Linear(D, D, bias=False)
        self.span: Span = WHOLE

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Initialise; recall decays begin at time constants log-spaced from 8 tokens up."""
        nn.init.normal_(self.in_proj.weight, std=std)
        nn.init.normal_(self.out_proj.weight, std=out_std)
        nn.init.ones_(self.head_norm)
        self.short_conv.reset_parameters()
        if self.filter is not None:
            self.filter.reset_parameters()
        if self.decay_proj is not None:
            nn.init.zeros_(self.decay_proj.weight)
            log_tau = torch.linspace(
                math.log(8.0), math.log(self.max_time_constant), self.num_recall
            )
            with torch.no_grad():
                self.decay_proj.bias.copy_(log_tau)

    def forward(
        self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None
    ) -> tuple[Tensor, MixerState, GateLosses | None]:
        """Mix the tokens of a sequence.

        Args:
            x_BTD: Input, already normalised.
            context: Positions and documents.
            state: Memory of the tokens before this sequence (none if None).

        Returns:
            (y_BTD, memory after the last token, auxiliary losses if there are gates).
        """
        z_BTZ, gate_BTD = self._project(x_BTD)
        with torch.autocast(x_BTD.device.type, enabled=False):
            z_BTZ = full_precision(z_BTZ)
            log_decay_BTH = self._log_decay(x_BTD.to(z_BTZ.dtype))
            y_BTD, state, losses = self.mix(z_BTZ, log_decay_BTH, context, state)
        return self.out_proj(self.normalise(y_BTD, gate_BTD)), state, losses

    def mix(
        self,
        z_BTZ: Tensor,
        log_decay_BTH: Tensor | None,
        context: SequenceContext,
        state: MixerState | None = None,
    ) -> tuple[Tensor, MixerState, GateLosses | None]:
        """All that mixes along the sequence, between the input and the output projection.

        Args:
            z_BTZ: Projections of q, k and v, Z = 3 D channels.
            log_decay_BTH: Of the recall heads; None if there are none.
            context: Positions and documents.
            state: Memory of the tokens before this sequence (none if None).

        Returns:
            (y_BTD, to be normalised; memory after the last token; auxiliary losses).

        Cost: O(T D (log C + M)) for convolution heads, O(T D (C + K)) for recall heads.
        """
        T = z_BTZ.shape[1]
        if state is None:
            past = self.span.before(z_BTZ, self.short_conv.width - 1)
        else:
            past = state.short_BWD
        z_BTZ, short = self.short_conv(z_BTZ, context.segment_ids_BT, past, context.before_BW)
        conv_BT3I, recall_BT3R = self._by_kind(z_BTZ)
        outputs = []
        modes: Tensor | GatedState
        modes = recalled = z_BTZ.new_zeros(z_BTZ.shape[0], 0)
        losses = None
        if self.filter is not None:
            documents = context.documents.get(min(self.conv_chunk, T))
            past_modes = None if state is None else state.modes
            q_BTI, k_BTI, v_BTI = conv_BT3I.unbind(-2)
            u_BIT = channels_first(k_BTI * v_BTI)
            if isinstance(self.filter, GatedFilter):
                y_BIT, modes, losses = self.filter(u_BIT, documents, past_modes, self.span)
            else:
                y_BIT, end = self.filter(u_BIT, documents, past_modes, self.span)
                modes = end.total()
            outputs.append(q_BTI * time_first(y_BIT))
        if log_decay_BTH is not None:
            chunk = min(self.recall_chunk, T)
            documents = context.documents.get(chunk)
            past = None if state is None else state.recall_BHKK
            q, k, v = self._recall_inputs(recall_BT3R, context, chunk)
            y, recalled = recall(q, k, v, log_decay_BTH, documents, past, self.span)
            outputs.append(y.flatten(-2))
        return _side_by_side(outputs), MixerState(short, modes, recalled), losses

    def step(
        self, x_BD: Tensor, context: SequenceContext, state: MixerState
    ) -> tuple[Tensor, MixerState]:
        """Mix one token in constant time; equal to `forward` on the whole sequence."""
        z_BZ, gate_BD = self._project(x_BD)
        with torch.autocast(x_BD.device.type, enabled=False):
            z_BZ = full_precision(z_BZ)
            log_decay_BH = self._log_decay(x_BD.to(z_BZ.dtype))
            y_BD, state = self._mix_step(z_BZ, log_decay_BH, context, state)
        return self.out_proj(self.normalise(y_BD, gate_BD)), state

    def _mix_step(
        self,
        z: Tensor,
        log_decay_BH: Tensor | None,
        context: SequenceContext,
        state: MixerState,
    ) -> tuple[Tensor, MixerState]:
        """`mix` of one token."""
        z, short = self.short_conv.step(z, state.short_BWD)
        conv_B3I, recall_B3R = self._by_kind(z)
        outputs = []
        modes, recalled = state.modes, state.recall_BHKK
        if self.filter is not None:
            q_BI, k_BI, v_BI = conv_B3I.unbind(-2)
            if isinstance(self.filter, GatedFilter) and isinstance(modes, GatedState):
                y_BI, modes = self.filter.step(k_BI * v_BI, modes, context.position)
            elif isinstance(self.filter, ModalFilter) and isinstance(modes, Tensor):
                y_BI, modes = self.filter.step(k_BI * v_BI, modes)
            else:
                raise TypeError(f"state: expected this mixer's own, got {type(modes).__name__}")
            outputs.append(q_BI * y_BI)
        if log_decay_BH is not None:
            q, k, v = (i[:, :, 0] for i in self._recall_inputs(recall_B3R[:, None], context, 1))
            y, recalled = recall_step(q, k, v, log_decay_BH, recalled)
            outputs.append(y.flatten(-2))
        return _side_by_side(outputs), MixerState(short, modes, recalled)

    def normalise(self, y_D: Tensor, gate_D: Tensor) -> Tensor:
        """What was mixed, normalised by head and gated by silu."""
        heads = self.num_conv + self.num_recall
        return norm_gate(y_D, gate_D, self.head_norm, heads, self.norm_eps)

    def _project(self, x_D: Tensor) -> tuple[Tensor, Tensor]:
        width = self.head_dim * (self.num_conv + self.num_recall)
        z_Z, gate_D = self.in_proj(x_D).split([3 * width, width], dim=-1)
        return z_Z, gate_D

    def _log_decay(self, x_D: Tensor) -> Tensor | None:
        return None if self.decay_proj is None else F.logsigmoid(self.decay_proj(x_D))

    def _by_kind(self, z_Z: Tensor) -> tuple[Tensor, Tensor]:
        """q, k and v of the convolution heads [..., 3, I] and of the recall heads [..., 3, R].

        All are of the only kind that there is: the gradient of a split would be a copy.
        """
        z_3D = z_Z.unflatten(-1, (3, -1))
        if not (self.num_conv and self.num_recall):
            return z_3D, z_3D
        conv_3I, recall_3R = z_3D.split([self.conv_dim, z_3D.shape[-1] - self.conv_dim], dim=-1)
        return conv_3I, recall_3R

    def _recall_inputs(
        self, qkv_BT3R: Tensor, context: SequenceContext, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        cos, sin = context.cos_TF, context.sin_TF
        return recall_inputs(qkv_BT3R.to(cos.dtype), cos, sin, self.num_recall, chunk)


def _side_by_side(outputs: list[Tensor]) -> Tensor:
    # torch.cat copies a single one too
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
