"""The base of all sequence mixers: projections, short convolution, norm and gate.

Shape letters: B batch, T time (tokens), D channels, W taps, H heads, Z = 3 D.
"""

import itertools
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from kernels.norm_gate.op import norm_gate
from kernels.precision import full_precision
from spectral.config import ModelConfig
from spectral.gates.losses import GateLosses
from spectral.mixers.context import SequenceContext
from spectral.modules.linear import Linear
from spectral.modules.short_conv import ShortConv


class MixerState(NamedTuple):
    """State of a mixer after the tokens so far: constant in size.

    Attributes:
        short_BWD: Last W - 1 inputs of the short convolution, 3 D channels.
        inner: State of the operator along the sequence, of the mixer's type.
    """

    short_BWD: Tensor
    inner: Any


class SequenceMixer(nn.Module, ABC):
    """Base class of mixers: y = out_proj(norm(mix(q, k, v)) * silu(gate)).

    q, k and v pass through a short convolution before they are mixed.

    Subclasses define how q, k and v are mixed along the sequence: `mix_qkv` for sequences and
    `mix_qkv_step` for one token. Heads must exchange data through `context.layout` only, so that
    tensor ranks can hold some heads each.

    Attributes:
        head_groups: Number of heads of each kind on this device, in the order of their channels.
        per_head_projections: Names of linear maps from the input to equally many numbers for each
            head of a group.
        per_channel_parameters: Names of parameters whose last dimension has the channels of a
            group of heads.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        D = config.dim
        self.head_dim, self.norm_eps = D // config.num_heads, config.norm_eps
        self.head_groups: tuple[int, ...] = (config.num_heads,)
        self.per_head_projections: tuple[str, ...] = ()
        self.per_channel_parameters: tuple[str, ...] = ()
        self.in_proj = Linear(D, 4 * D, bias=False)
        self.short_conv = ShortConv(3 * D, config.short_conv)
        self.head_norm = nn.Parameter(torch.ones(D))
        self.out_proj = Linear(D, D, bias=False)

    @abstractmethod
    def mix_qkv(
        self, qkv_BT3D: Tensor, x_BTD: Tensor, context: SequenceContext, past: Any
    ) -> tuple[Tensor, Any, GateLosses | None]:
        """Mixed signal of a sequence.

        Args:
            qkv_BT3D: Queries, keys and values, in bfloat16 under autocast to it, else in float32 or
                wider.
            x_BTD: Input of the mixer, for other functions of it such as decays.
            context: Positions, documents and layout.
            past: State after the preceding tokens; None at the beginning.

        Returns:
            (y_BTD before norm and gate, state after the last token, auxiliary losses of gates).
        """

    @abstractmethod
    def mix_qkv_step(
        self, qkv_B3D: Tensor, x_BD: Tensor, context: SequenceContext, past: Any
    ) -> tuple[Tensor, Any]:
        """Mixed signal of one token, in constant time; equal to `mix_qkv` on the whole sequence.

        Raises:
            ValueError: The mixer is bidirectional.
        """

    @property
    def num_heads(self) -> int:
        """Number of heads on this device."""
        return sum(self.head_groups)

    @property
    def channel_groups(self) -> tuple[tuple[int, int], ...]:
        """(first, end) channel of each head group on this device."""
        ends = list(itertools.accumulate(n * self.head_dim for n in self.head_groups))
        return tuple(zip([0, *ends[:-1]], ends, strict=True))

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Initialise: normal with these deviations in the first and the last linear map.

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
        self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None
    ) -> tuple[Tensor, MixerState, GateLosses | None]:
        """Output of the mixer for a sequence.

        Args:
            x_BTD: Input, already normalised.
            context: Positions, documents and layout.
            state: State after the preceding tokens; None at the beginning.

        Returns:
            (y_BTD, state after the last token, auxiliary losses of gates; None without gates).
        """
        z_BTZ, gate_BTD = self._project(x_BTD)
        with torch.autocast(x_BTD.device.type, enabled=False):
            z_BTZ = z_BTZ if z_BTZ.dtype == torch.bfloat16 else full_precision(z_BTZ)
            y_BTD, state, losses = self.mix(z_BTZ, x_BTD.to(z_BTZ.dtype), context, state)
        return self.out_proj(self.normalise(y_BTD, gate_BTD)), state, losses

    def mix(
        self,
        z_BTZ: Tensor,
        x_BTD: Tensor,
        context: SequenceContext,
        state: MixerState | None = None,
    ) -> tuple[Tensor, MixerState, GateLosses | None]:
        """Short convolution and `mix_qkv`: all operations along the sequence."""
        if state is None:
            past_BWD = context.layout.span.before(z_BTZ, self.short_conv.width - 1)
        else:
            past_BWD = state.short_BWD
        z_BTZ, short_BWD = self.short_conv(
            z_BTZ, context.segment_ids_BT, past_BWD, context.before_BW
        )
        inner = None if state is None else state.inner
        y_BTD, inner, losses = self.mix_qkv(z_BTZ.unflatten(-1, (3, -1)), x_BTD, context, inner)
        return y_BTD, MixerState(short_BWD, inner), losses

    def step(
        self, x_BD: Tensor, context: SequenceContext, state: MixerState
    ) -> tuple[Tensor, MixerState]:
        """Output for one token, in constant time; equal to `forward` on the whole sequence."""
        z_BZ, gate_BD = self._project(x_BD)
        with torch.autocast(x_BD.device.type, enabled=False):
            z_BZ, short_BWD = self.short_conv.step(full_precision(z_BZ), state.short_BWD)
            qkv_B3D = z_BZ.unflatten(-1, (3, -1))
            y_BD, inner = self.mix_qkv_step(qkv_B3D, x_BD.to(z_BZ.dtype), context, state.inner)
        return self.out_proj(self.normalise(y_BD, gate_BD)), MixerState(short_BWD, inner)

    def normalise(self, y_D: Tensor, gate_D: Tensor) -> Tensor:
        """Mixed signals, normalised per head and gated by silu."""
        return norm_gate(y_D, gate_D, self.head_norm, self.num_heads, self.norm_eps)

    def _project(self, x_D: Tensor) -> tuple[Tensor, Tensor]:
        width = self.head_dim * self.num_heads
        z_Z, gate_D = self.in_proj(x_D).split([3 * width, width], dim=-1)
        return z_Z, gate_D


class ConvolutionMixer(SequenceMixer):
    """A mixer whose heads all convolve: mix(q, k, v) = q * convolve(k * v)."""

    @abstractmethod
    def convolve(
        self, u_BTD: Tensor, context: SequenceContext, past: Any
    ) -> tuple[Tensor, Any, GateLosses | None]:
        """(y_BTD, state after the last token, auxiliary losses) of a sequence."""

    def convolve_step(
        self, u_BD: Tensor, context: SequenceContext, past: Any
    ) -> tuple[Tensor, Any]:
        """(y_BD, state after the token) of one token.

        Raises:
            ValueError: The mixer is bidirectional.
        """
        del u_BD, context, past
        raise ValueError(f"{type(self).__name__}: a bidirectional mixer has no recurrent form")

    def mix_qkv(
        self, qkv_BT3D: Tensor, x_BTD: Tensor, context: SequenceContext, past: Any
    ) -> tuple[Tensor, Any, GateLosses | None]:
        """Queries times the convolution of k * v."""
        del x_BTD
        q_BTD, k_BTD, v_BTD = qkv_BT3D.unbind(-2)
        y_BTD, state, losses = self.convolve(k_BTD * v_BTD, context, past)
        return q_BTD * y_BTD.to(q_BTD.dtype), state, losses

    def mix_qkv_step(
        self, qkv_B3D: Tensor, x_BD: Tensor, context: SequenceContext, past: Any
    ) -> tuple[Tensor, Any]:
        """Query times the convolution of k * v, for one token."""
        del x_BD
        q_BD, k_BD, v_BD = qkv_B3D.unbind(-2)
        y_BD, state = self.convolve_step(k_BD * v_BD, context, past)
        return q_BD * y_BD, state
