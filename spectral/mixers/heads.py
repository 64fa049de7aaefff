"""Mixer of heads: convolution heads and recall heads next to each other.

Shape letters: B batch, T time (tokens), D channels of the model, I channels of the convolution
heads, R channels of the recall heads (I + R = D), H recall heads, K channels of a head.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.recall_qkv.op import recall_inputs
from spectral.config import ModelConfig
from spectral.filters.build import CausalFilter, FilterState, build_filter
from spectral.gates.losses import GateLosses
from spectral.layer_pattern import num_conv_heads
from spectral.mixers.base import SequenceMixer
from spectral.mixers.context import SequenceContext
from spectral.modules.linear import WideLinear
from spectral.modules.recall import recall, recall_step
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
        if num_recall:
            self.decay_proj = WideLinear(config.dim, num_recall)
            self.per_head_projections = {"decay_proj": 1}

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Initialise; recall decays begin at time constants log-spaced from 8 tokens up."""
        super().reset_parameters(std, out_std)
        if self.decay_proj is not None:
            nn.init.zeros_(self.decay_proj.weight)
            log_tau = torch.linspace(
                math.log(8.0), math.log(self.max_time_constant), self.decay_proj.out_features
            )
            with torch.no_grad():
                self.decay_proj.bias.copy_(log_tau)

    def mix_qkv(
        self, qkv_BT3D: Tensor, x_BTD: Tensor, context: SequenceContext, past: HeadsState | None
    ) -> tuple[Tensor, HeadsState, GateLosses | None]:
        """Chunked forms of both kinds of heads."""
        return self.mix_heads(qkv_BT3D, self.log_decay(x_BTD), context, past)

    def mix_heads(
        self,
        qkv_BT3D: Tensor,
        log_decay_BTH: Tensor | None,
        context: SequenceContext,
        past: HeadsState | None,
    ) -> tuple[Tensor, HeadsState, GateLosses | None]:
        """`mix_qkv`, given the logarithm of each recall head's decay (None without such heads)."""
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
        if log_decay_BTH is not None:
            chunk = min(self.recall_chunk, T)
            documents = context.documents.get(chunk)
            past_recall = None if past is None else past.recall_BHKK
            q, k, v = self._recall_inputs(recall_BT3R, context, chunk)
            y, recalled = recall(
                q, k, v, log_decay_BTH, documents, past_recall, context.layout.span
            )
            outputs.append(y.flatten(-2))
        return _concatenated(outputs), HeadsState(modes, recalled), losses

    def mix_qkv_step(
        self, qkv_B3D: Tensor, x_BD: Tensor, context: SequenceContext, past: HeadsState
    ) -> tuple[Tensor, HeadsState]:
        """Recurrent forms of both kinds of heads."""
        conv_B3I, recall_B3R = self._by_kind(qkv_B3D)
        log_decay_BH = self.log_decay(x_BD)
        outputs = []
        modes, recalled = past.modes, past.recall_BHKK
        if self.filter is not None:
            q_BI, k_BI, v_BI = conv_B3I.unbind(-2)
            y_BI, modes = self.filter.step(k_BI * v_BI, modes, context.position, context.layout)
            outputs.append(q_BI * y_BI)
        if log_decay_BH is not None:
            q, k, v = (i[:, :, 0] for i in self._recall_inputs(recall_B3R[:, None], context, 1))
            y, recalled = recall_step(q, k, v, log_decay_BH, recalled)
            outputs.append(y.flatten(-2))
        return _concatenated(outputs), HeadsState(modes, recalled)

    def log_decay(self, x_D: Tensor) -> Tensor | None:
        """Logarithm of each recall head's decay, from the input; None without recall heads."""
        return None if self.decay_proj is None else F.logsigmoid(self.decay_proj(x_D))

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

    def _recall_inputs(
        self, qkv_BT3R: Tensor, context: SequenceContext, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        cos, sin = context.cos_TF, context.sin_TF
        return recall_inputs(qkv_BT3R, cos, sin, self.head_groups[1], chunk)


def _concatenated(outputs: list[Tensor]) -> Tensor:
    # torch.cat copies a single tensor too
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
