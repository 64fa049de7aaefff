"""A step of decoding for other runtimes: without complex numbers and operators of our own.

Complex states are pairs of real ones, and the position is a tensor.

Shape letters: B batch, D channels, M modes, H recall heads, K channels of a head, F rotary
frequencies, W tokens before this one, I inputs, O outputs, E experts.
"""

import math
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral.backbone import LMState
from spectral.block import Block
from spectral.feed_forward.experts import ExpertsFeedForward
from spectral.feed_forward.mlp import FrequencyFeedForward, GatedFeedForward
from spectral.filters.modal import ModalFilter
from spectral.lm import SpectralLM
from spectral.mixers.base import SequenceMixer
from spectral.mixers.heads import HeadsMixer, HeadsState
from spectral.mixers.wavelet import WaveletMixer, WaveletState

# divisor of vectors that are shorter, as in the recall heads
SHORTEST = 1e-12
# parts of recall heads that only some rules have
EXTRAS = ("strength_proj", "erase_proj", "phase_proj", "qk_bias")


class RealStep(nn.Module):
    """(token, position, state) -> (logits, new state), with a state of constant size.

    Args:
        model: A causal model of heads and wavelets without gates.

    Raises:
        ValueError: A part of the model has no such form; names it.
    """

    def __init__(self, model: SpectralLM):
        super().__init__()
        for problem in real_step_problems(model):
            raise ValueError(problem)
        config = model.config
        self.register_buffer("table_VD", model.table().detach().clone())
        self.layers = nn.ModuleList(RealBlock(cast(Block, block)) for block in model.blocks)
        self.register_buffer("norm_D", _weight(model.final_norm))
        self.eps = config.norm_eps
        exponent_F = torch.arange(0, config.dim // config.num_heads, 2, dtype=torch.float64)
        exponent_F = exponent_F / (config.dim // config.num_heads)
        self.register_buffer("frequency_F", config.rotary_base**-exponent_F)

    def forward(self, token_B: Tensor, position: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, V] of the token after this one, then the new state.

        Args:
            token_B: The next token of every row.
            position: Number of tokens before it, integer [1].
            state: From `real_state`, or an earlier step.
        """
        x_BD = F.embedding(token_B, self.table_VD)
        angle_F = position.double() * self.frequency_F
        # whole rotations are dropped before anything is rounded
        angle_F = angle_F - (angle_F * (0.5 / math.pi)).floor() * (2.0 * math.pi)
        cos_F, sin_F = angle_F.to(x_BD.dtype).cos(), angle_F.to(x_BD.dtype).sin()
        after: list[Tensor] = []
        for layer in self.layers:
            count = layer.num_states
            x_BD, new = layer(x_BD, cos_F, sin_F, state[len(after) : len(after) + count])
            after += new
        logits_BV = _rms_norm(x_BD, self.norm_D, self.eps) @ self.table_VD.T
        return (logits_BV, *after)


class RealBlock(nn.Module):
    """A block for one token."""

    def __init__(self, block: Block):
        super().__init__()
        self.mixer = RealMixer(cast(SequenceMixer, block.mixer))
        self.num_states = self.mixer.num_states
        self.eps = block.config.norm_eps
        self.register_buffer("mixer_norm_D", _weight(block.mixer_norm))
        self.register_buffer("feed_norm_D", _weight(block.feed_forward_norm))
        self.dense = _dense_feed_forward(block.feed_forward)

    def forward(
        self, x_BD: Tensor, cos_F: Tensor, sin_F: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        """Output and new state of the block."""
        y_BD, after = self.mixer(_rms_norm(x_BD, self.mixer_norm_D, self.eps), cos_F, sin_F, state)
        x_BD = x_BD + y_BD
        return x_BD + self.dense(_rms_norm(x_BD, self.feed_norm_D, self.eps)), after


class RealMixer(nn.Module):
    """A mixer of heads or wavelets for one token."""

    def __init__(self, mixer: SequenceMixer):
        super().__init__()
        self.in_proj, self.out_proj = mixer.in_proj, mixer.out_proj
        self.register_buffer("taps_WZ", mixer.short_conv.taps.detach().flip(0).clone())
        self.register_buffer("head_norm_D", mixer.head_norm.detach().clone())
        self.num_heads, self.eps = mixer.num_heads, mixer.norm_eps
        self.width = mixer.head_dim * mixer.num_heads
        self.decay_proj: nn.Linear | None = None
        self.num_recall, self.num_conv_channels = 0, self.width
        filters: list[nn.Module] = []
        self.wavelet_GW: Tensor | None
        self.register_buffer("wavelet_GW", None)
        if isinstance(mixer, WaveletMixer):
            filters = list(mixer.levels)
            self.wavelet_GW = torch.tensor(mixer.taps).flip(-1)
        elif isinstance(mixer, HeadsMixer):
            self.decay_proj, self.num_recall = mixer.decay_proj, mixer.head_groups[1]
            self.num_conv_channels = mixer.channel_groups[0][1]
            filters = [] if mixer.filter is None else [mixer.filter]
        self.filters = nn.ModuleList(RealFilter(cast(ModalFilter, each)) for each in filters)
        has_window = self.wavelet_GW is not None
        self.num_states = 1 + has_window + 2 * len(filters) + bool(self.num_recall)

    def forward(
        self, x_BD: Tensor, cos_F: Tensor, sin_F: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        """Output and new state of the mixer."""
        z_BZ, gate_BD = self.in_proj(x_BD).split([3 * self.width, self.width], dim=-1)
        window_BWZ = torch.cat([state[0], z_BZ[:, None]], dim=1)
        after = [window_BWZ[:, 1:]]
        q_BD, k_BD, v_BD = (window_BWZ * self.taps_WZ).sum(1).chunk(3, dim=-1)
        num_conv, R = self.num_conv_channels, self.num_recall
        outputs = []
        if len(self.filters):
            u_BI = k_BD[:, :num_conv] * v_BD[:, :num_conv]
            if self.wavelet_GW is None:
                y_BI = self._filtered([u_BI], state[1:], after)
            else:
                recent_BWD = torch.cat([state[1], u_BI[:, None]], dim=1)
                after.append(recent_BWD[:, 1:])
                signals = [(recent_BWD * taps_W[:, None]).sum(1) for taps_W in self.wavelet_GW]
                y_BI = self._filtered(signals, state[2:], after)
            outputs.append(q_BD[:, :num_conv] * y_BI)
        if R and self.decay_proj is not None:
            q, k, v = (part[:, num_conv:].unflatten(-1, (R, -1)) for part in (q_BD, k_BD, v_BD))
            decay_BH11 = self.decay_proj(x_BD).sigmoid()[..., None, None]
            q, k = (_rotated_unit(part, cos_F, sin_F) for part in (q, k))
            recall_BHKK = decay_BH11 * state[-1] + k[..., :, None] * F.silu(v)[..., None, :]
            after.append(recall_BHKK)
            outputs.append((q[..., None] * recall_BHKK).sum(-2).flatten(1))
        y_BHK = torch.cat(outputs, dim=-1).unflatten(-1, (self.num_heads, -1))
        unit_BHK = y_BHK * (y_BHK.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return self.out_proj(unit_BHK.flatten(1) * self.head_norm_D * F.silu(gate_BD)), after

    def _filtered(
        self, signals: list[Tensor], state: tuple[Tensor, ...], after: list[Tensor]
    ) -> Tensor:
        total = torch.zeros_like(signals[0])
        for index, (part, signal_BD) in enumerate(zip(self.filters, signals, strict=True)):
            y_BD, *new = part(signal_BD, *state[2 * index : 2 * index + 2])
            total = total + y_BD
            after += new
        return total


class RealFilter(nn.Module):
    """A modal filter for one token: its state is a pair of real tensors."""

    def __init__(self, source: ModalFilter):
        super().__init__()
        decay = source.log_lambda().detach().exp()
        # float64: powers of a rounded lambda drift by 1e-4 in 204,800 steps
        self.register_buffer("decay_DM2", torch.view_as_real(decay).clone())
        self.register_buffer("residue_DM2", source.residue.detach().clone())
        self.register_buffer("skip_D", source.skip.detach().clone())

    def forward(self, u_BD: Tensor, re_BDM: Tensor, im_BDM: Tensor) -> tuple[Tensor, ...]:
        """(y_BD, new real part, new imaginary part)."""
        re, im = re_BDM.double(), im_BDM.double()
        decay_re, decay_im = self.decay_DM2[..., 0], self.decay_DM2[..., 1]
        new_re = (re * decay_re - im * decay_im).to(u_BD.dtype) + u_BD[..., None]
        new_im = (re * decay_im + im * decay_re).to(u_BD.dtype)
        y_BDM = new_re * self.residue_DM2[..., 0] - new_im * self.residue_DM2[..., 1]
        return y_BDM.sum(-1) + self.skip_D * u_BD, new_re, new_im


class DenseExperts(nn.Module):
    """All experts for every token, weighted: no sorting by expert."""

    def __init__(self, source: ExpertsFeedForward):
        super().__init__()
        self.router, self.count = source.router, source.num_experts
        self.per_token = source.experts_per_token
        self.register_buffer("gate_up_EOI", source.gate_up_proj.weight.detach().clone())
        self.register_buffer("down_EOI", source.down_proj.weight.detach().clone())

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        probability_BE = self.router(x_BD).softmax(-1)
        weight_BK, expert_BK = probability_BE.topk(self.per_token)
        if self.per_token > 1:
            weight_BK = weight_BK / weight_BK.sum(-1, keepdim=True)
        gate_EBH, up_EBH = (x_BD @ self.gate_up_EOI.transpose(1, 2)).chunk(2, dim=-1)
        y_EBD = (F.silu(gate_EBH) * up_EBH) @ self.down_EOI.transpose(1, 2)
        chosen_BKE = F.one_hot(expert_BK, self.count).to(x_BD.dtype)
        weight_BE = (weight_BK[..., None] * chosen_BKE).sum(1)
        return (y_EBD * weight_BE.T[..., None]).sum(0)


class DenseFrequency(nn.Module):
    """The blend of a gated feed-forward and circular convolutions, as matrices."""

    def __init__(self, source: FrequencyFeedForward):
        super().__init__()
        self.gated = source.gated
        filters = source.filters_2F2.detach()
        unit = torch.eye(source.gated.gate_up_proj.in_features, dtype=filters.dtype)
        matrices = [
            torch.fft.irfft(
                torch.fft.rfft(unit) * torch.view_as_complex(each.contiguous()), n=len(unit)
            )
            for each in filters
        ]
        self.register_buffer("matrices_2DD", torch.stack(matrices))
        self.register_buffer("alpha", source.blend.detach().sigmoid())

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        spectral_BD = F.gelu(x_BD @ self.matrices_2DD[0]) @ self.matrices_2DD[1]
        return (1.0 - self.alpha) * self.gated(x_BD) + self.alpha * spectral_BD


def real_step_problems(model: SpectralLM) -> Iterator[str]:
    """Why a model has no real step; nothing if it has one."""
    if not model.config.causal:
        yield "causal: expected true for a step of decoding, got false"
    for block in model.blocks:
        mixer = cast(Block, block).mixer
        if type(mixer) not in (HeadsMixer, WaveletMixer):
            yield (
                f"model.mixers: {type(mixer).__name__} has no step without complex numbers; "
                "expected heads or wavelet"
            )
            continue
        if any(getattr(mixer, name, None) is not None for name in EXTRAS):
            yield "model.recall_rule, recall_phase, recall_bias: expected their defaults"
        filters = mixer.levels if isinstance(mixer, WaveletMixer) else [mixer.filter]
        if any(part is not None and type(part) is not ModalFilter for part in filters):
            yield "model.gates: gates have no step without complex numbers; expected none of them"


def real_state(state: LMState) -> list[Tensor]:
    """The state of a model as real tensors, in the order of `RealStep`'s arguments."""
    flat: list[Tensor] = []
    for layer in state.layers:
        flat.append(layer.short_BWD)
        inner = layer.inner
        if isinstance(inner, WaveletState):
            flat.append(inner.recent_BWD)
            for modes in inner.filters:
                flat += [cast(Tensor, modes).real, cast(Tensor, modes).imag]
        elif isinstance(inner, HeadsState):
            if isinstance(inner.modes, Tensor) and inner.modes.ndim == 3:
                flat += [inner.modes.real, inner.modes.imag]
            if inner.recall_BHKK.ndim == 4:
                flat.append(inner.recall_BHKK)
    return [tensor.contiguous() for tensor in flat]


def empty_state(model: SpectralLM, batch: int = 1) -> list[Tensor]:
    """The state before the first token: zeros."""
    with torch.no_grad():
        _, state = model.prefill(torch.zeros(batch, 1, dtype=torch.long))
    return [torch.zeros_like(tensor) for tensor in real_state(state)]


def _dense_feed_forward(source: nn.Module) -> nn.Module:
    if isinstance(source, ExpertsFeedForward):
        return DenseExperts(source)
    if isinstance(source, FrequencyFeedForward):
        return DenseFrequency(source)
    return cast(GatedFeedForward, source)


def _weight(norm: nn.Module) -> Tensor:
    return cast(Tensor, norm.weight).detach().clone()


def _rms_norm(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return x_D * (x_D.square().mean(-1, keepdim=True) + eps).rsqrt() * weight_D


def _rotated_unit(x_BHK: Tensor, cos_F: Tensor, sin_F: Tensor) -> Tensor:
    x_BHK = F.silu(x_BHK)
    length_BH1 = x_BHK.square().sum(-1, keepdim=True).sqrt().clamp(min=SHORTEST)
    first_BHF, second_BHF = (x_BHK / length_BH1).chunk(2, dim=-1)
    return torch.cat(
        [first_BHF * cos_F - second_BHF * sin_F, first_BHF * sin_F + second_BHF * cos_F], dim=-1
    )
