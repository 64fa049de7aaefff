"""Mixer of heads: convolution heads and recall heads next to each other.

Shape letters: B batch, T time (tokens), D channels of the model, I channels of the convolution
heads, R channels of the recall heads (I + R = D), H recall heads, K channels of a head, F pairs of
them.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral.config import ModelConfig
from spectral.filters.build import CausalFilter, FilterState, build_filter
from spectral.gates.losses import GateLosses
from spectral.layer_pattern import num_conv_heads
from spectral.mixers.base import SequenceMixer
from spectral.mixers.context import SequenceContext
from spectral.mixers.recall_heads import RecallControls, mix_recall, mix_recall_step
from spectral.modules.linear import WideLinear
from spectral.modules.transpose import channels_first, time_first


class HeadsState(NamedTuple):
    """State of both kinds of heads; empty tensors for a kind that the layer lacks.

    Attributes:
        modes: State of the convolution heads' filter.
        recall_BHKK: State of the recall heads.
    """

    modes: FilterState
    recall_BHKK: Tensor


class HeadsMixer(SequenceMixer):
    """Mix a sequence causally in O(T log C) with C-sized FFTs and a constant-size state.

    Convolution heads: y = q * (h conv (k * v)), h a sum of modes per channel. Recall heads: modes
    that are written and read by content.

    Cost: O(T D (log C + M)) for convolution heads, O(T D (C + K)) for recall heads.
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config)
        num_conv = num_conv_heads(config, layer)
        num_recall = config.num_heads - num_conv
        self.head_groups = (num_conv, num_recall)
        self.conv_chunk, self.recall_chunk = config.conv_chunk, config.recall_chunk
        self.max_time_constant = config.max_time_constant
        self.filter: CausalFilter | None = None
        if num_conv:
            self.filter = build_filter(config, num_conv, num_conv * self.head_dim)
        self.decay_proj: nn.Linear | None = None
        self.strength_proj: nn.Linear | None = None
        self.erase_proj: nn.Linear | None = None
        self.phase_proj: nn.Linear | None = None
        self.qk_bias: nn.Parameter | None = None
        self.max_strength = config.recall_strength
        if num_recall:
            self._add_recall(config, num_recall)

    def _add_recall(self, config: ModelConfig, num_recall: int) -> None:
        D, R = config.dim, num_recall * self.head_dim
        widths = {"decay_proj": num_recall}
        if config.recall_rule == "delta":
            widths["strength_proj"] = num_recall
            if config.recall_erase == "channel":
                widths["erase_proj"] = R
        if config.recall_phase == "data":
            widths["phase_proj"] = R // 2
        for name, width in widths.items():
            setattr(self, name, WideLinear(D, width))
        self.per_head_projections = tuple(widths)
        if config.recall_bias:
            self.qk_bias = nn.Parameter(torch.empty(2, R))
            self.per_channel_parameters = ("qk_bias",)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Initialise; recall decays begin at time constants log-spaced from 8 tokens up.

        Write strengths begin near half of their largest, phases at those of the positions.
        """
        super().reset_parameters(std, out_std)
        self.reset_bias()
        if self.decay_proj is not None:
            nn.init.zeros_(self.decay_proj.weight)
            log_tau = torch.linspace(
                math.log(8.0), math.log(self.max_time_constant), self.decay_proj.out_features
            )
            with torch.no_grad():
                self.decay_proj.bias.copy_(log_tau)
        for projection in (self.strength_proj, self.erase_proj):
            if projection is not None:
                nn.init.normal_(projection.weight, std=std)
                nn.init.zeros_(projection.bias)
        if self.phase_proj is not None:
            nn.init.zeros_(self.phase_proj.weight)
            nn.init.zeros_(self.phase_proj.bias)

    def reset_bias(self) -> None:
        """Initialise the bias of queries and keys: one direction, of unit length, in all heads."""
        if self.qk_bias is not None:
            nn.init.constant_(self.qk_bias, self.head_dim**-0.5)

    def mix_qkv(
        self, qkv_BT3D: Tensor, x_BTD: Tensor, context: SequenceContext, past: HeadsState | None
    ) -> tuple[Tensor, HeadsState, GateLosses | None]:
        """Chunked forms of both kinds of heads."""
        return self.mix_heads(qkv_BT3D, self.controls(x_BTD), context, past)

    def mix_heads(
        self,
        qkv_BT3D: Tensor,
        controls: RecallControls | None,
        context: SequenceContext,
        past: HeadsState | None,
    ) -> tuple[Tensor, HeadsState, GateLosses | None]:
        """`mix_qkv`, given the controls of recall heads (None without such heads)."""
        T = qkv_BT3D.shape[1]
        conv_BT3I, recall_BT3R = self._by_kind(qkv_BT3D)
        outputs = []
        modes: FilterState
        modes = recalled = qkv_BT3D.new_zeros(qkv_BT3D.shape[0], 0)
        losses = None
        if self.filter is not None:
            documents = context.documents.get(min(self.conv_chunk, T))
            past_modes = None if past is None else past.modes
            q_BTI, k_BTI, v_BTI = conv_BT3I.unbind(-2)
            u_BIT = channels_first(k_BTI * v_BTI)
            y_BIT, modes, losses = self.filter(u_BIT, documents, past_modes, context.layout)
            outputs.append(q_BTI * time_first(y_BIT))
        if controls is not None:
            past_recall = None if past is None else past.recall_BHKK
            chunk = min(self.recall_chunk, T)
            y, recalled = mix_recall(
                recall_BT3R, controls, self.qk_bias, context, chunk, past_recall
            )
            outputs.append(y.flatten(-2))
        return _concatenated(outputs), HeadsState(modes, recalled), losses

    def mix_qkv_step(
        self, qkv_B3D: Tensor, x_BD: Tensor, context: SequenceContext, past: HeadsState
    ) -> tuple[Tensor, HeadsState]:
        """Recurrent forms of both kinds of heads."""
        conv_B3I, recall_B3R = self._by_kind(qkv_B3D)
        controls = self.controls(x_BD[:, None])
        outputs = []
        modes, recalled = past.modes, past.recall_BHKK
        if self.filter is not None:
            q_BI, k_BI, v_BI = conv_B3I.unbind(-2)
            y_BI, modes = self.filter.step(k_BI * v_BI, modes, context.position, context.layout)
            outputs.append(q_BI * y_BI)
        if controls is not None:
            y, recalled = mix_recall_step(recall_B3R, controls, self.qk_bias, context, recalled)
            outputs.append(y.flatten(-2))
        return _concatenated(outputs), HeadsState(modes, recalled)

    def controls(self, x_BTD: Tensor) -> RecallControls | None:
        """Controls of recall heads, from the input; None without such heads."""
        if self.decay_proj is None:
            return None
        controls = RecallControls(F.logsigmoid(self.decay_proj(x_BTD)))
        if self.strength_proj is not None:
            strength_BTH = self.max_strength * self.strength_proj(x_BTD).sigmoid()
            controls = controls._replace(strength_BTH=strength_BTH)
        if self.erase_proj is not None:
            erase_BTR = self.max_strength * self.erase_proj(x_BTD).sigmoid()
            controls = controls._replace(erase_BTHK=erase_BTR.unflatten(-1, (-1, self.head_dim)))
        if self.phase_proj is not None:
            angle_BTF = math.pi * self.phase_proj(x_BTD).tanh()
            angle_BTHF = angle_BTF.unflatten(-1, (-1, self.head_dim // 2))
            controls = controls._replace(angle_BTHF=angle_BTHF)
        return controls

    def _by_kind(self, qkv_3D: Tensor) -> tuple[Tensor, Tensor]:
        """q, k and v of the convolution heads [..., 3, I] and of the recall heads [..., 3, R].

        A layer of one kind gets all channels twice: the gradient of a split would be a copy.
        """
        if not all(self.head_groups):
            return qkv_3D, qkv_3D
        conv_3I, recall_3R = qkv_3D.split(
            [end - first for first, end in self.channel_groups], dim=-1
        )
        return conv_3I, recall_3R


def _concatenated(outputs: list[Tensor]) -> Tensor:
    # torch.cat copies a single tensor too
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
