"""What mixers by convolution share: projections, short convolution, norm and gate around them.

Shape letters: B batch, T time (tokens), D channels, W taps.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from kernels.norm_gate.op import norm_gate
from spectral.config import ModelConfig
from spectral.gates.losses import GateLosses
from spectral.mixers.context import SequenceContext
from spectral.mixers.heads import full_precision
from spectral.modules.short_conv import ShortConv
from spectral.sequence.span import WHOLE, Span


class SequenceState(NamedTuple):
    """What such a mixer remembers of the past.

    Attributes:
        short_BWD: Last W - 1 inputs of the short convolution, 3 D channels.
        inner: What its convolution remembers.
    """

    short_BWD: Tensor
    inner: Any


class SequenceMixer(nn.Module, ABC):
    """y = out(norm(q * convolve(k * v)) * silu(gate)), with q, k, v through a short convolution.

    Subclasses say how to convolve: all heads apart, so that a rank may hold some of them.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        D = config.dim
        self.num_heads, self.head_dim = config.num_heads, D // config.num_heads
        self.causal, self.norm_eps = config.causal, config.norm_eps
        self.in_proj = nn.Linear(D, 4 * D, bias=False)
        self.short_conv = ShortConv(3 * D, config.short_conv)
        self.head_norm = nn.Parameter(torch.ones(D))
        self.out_proj = nn.Linear(D, D, bias=False)
        self.span: Span = WHOLE

    @abstractmethod
    def convolve(
        self, u_BTD: Tensor, context: SequenceContext, past: Any
    ) -> tuple[Tensor, Any, GateLosses | None]:
        """Mix a sequence: (y_BTD, what is remembered of it, auxiliary losses)."""

    def convolve_step(
        self, u_BD: Tensor, context: SequenceContext, past: Any
    ) -> tuple[Tensor, Any]:
        """Mix one token more: (y_BD, what is remembered).

        Raises:
            ValueError: The mixer is bidirectional.
        """
        del u_BD, context, past
        raise ValueError(f"{type(self).__name__}: a bidirectional mixer has no recurrent form")

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Initialise; standard deviations are those of the first and the last map.

        All other parts initialise themselves.
        """
        nn.init.normal_(self.in_proj.weight, std=std)
        nn.init.normal_(self.out_proj.weight, std=out_std)
        nn.init.ones_(self.head_norm)
        for part in self.children():
            for module in part if isinstance(part, nn.ModuleList) else (part,):
                if not isinstance(module, nn.Linear):
                    cast(Any, module).reset_parameters()

    def forward(
        self, x_BTD: Tensor, context: SequenceContext, state: SequenceState | None = None
    ) -> tuple[Tensor, SequenceState, GateLosses | None]:
        """Mix the tokens of a sequence; as `HeadsMixer.forward`."""
        D = self.num_heads * self.head_dim
        z_BTZ, gate_BTD = self.in_proj(x_BTD).split([3 * D, D], dim=-1)
        with torch.autocast(x_BTD.device.type, enabled=False):
            y_BTD, state, losses = self.mix(full_precision(z_BTZ), context, state)
        return self.out_proj(self.normalise(y_BTD, gate_BTD)), state, losses

    def mix(
        self, z_BTZ: Tensor, context: SequenceContext, state: SequenceState | None = None
    ) -> tuple[Tensor, SequenceState, GateLosses | None]:
        """All that mixes along the sequence, from projections of q, k and v (Z = 3 D).

        What it returns is still to be normalised.
        """
        if state is None:
            past = self.span.before(z_BTZ, self.short_conv.width - 1)
        else:
            past = state.short_BWD
        z_BTZ, short = self.short_conv(z_BTZ, context.segment_ids_BT, past, context.before_BW)
        q_BTD, k_BTD, v_BTD = z_BTZ.chunk(3, dim=-1)
        inner = None if state is None else state.inner
        y_BTD, inner, losses = self.convolve(k_BTD * v_BTD, context, inner)
        return q_BTD * y_BTD, SequenceState(short, inner), losses

    def step(
        self, x_BD: Tensor, context: SequenceContext, state: SequenceState
    ) -> tuple[Tensor, SequenceState]:
        """Mix one token; equal to `forward` on the whole sequence."""
        D = self.num_heads * self.head_dim
        z_BZ, gate_BD = self.in_proj(x_BD).split([3 * D, D], dim=-1)
        with torch.autocast(x_BD.device.type, enabled=False):
            z_BZ, short = self.short_conv.step(full_precision(z_BZ), state.short_BWD)
            q_BD, k_BD, v_BD = z_BZ.chunk(3, dim=-1)
            y_BD, inner = self.convolve_step(k_BD * v_BD, context, state.inner)
        return self.out_proj(self.normalise(q_BD * y_BD, gate_BD)), SequenceState(short, inner)

    def normalise(self, y_D: Tensor, gate_D: Tensor) -> Tensor:
        """What was mixed, normalised by head and gated by silu."""
        return norm_gate(y_D, gate_D, self.head_norm, self.num_heads, self.norm_eps)
