"""Spectral gates: how strongly, and with which phase, each frequency is read.

A gate looks at a spectrum and multiplies it. In a causal model the spectrum is the state that is
carried into a chunk, a spectrum of the past: |s_m| and arg s_m are magnitude and phase at the
frequency of mode m. Gates act where the state is read, never on the recurrence, so its chunked and
recurrent forms stay exact. In a bidirectional model the same gates act on the bins of an FFT.

Shape letters: R rows (batch times chunks), H head, N channels of a head, M bins (modes), K bands.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.spectral_gate.op import gate_values, spectral_energy
from kernels.spectral_gate.reference import GateParts
from spectral.gates.bin_selection import BinSelector
from spectral.gates.config import GatesConfig
from spectral.gates.keys import GATE_PARTS
from spectral.gates.losses import EPSILON, GateLosses, gate_losses
from spectral.layout import SINGLE_DEVICE, Layout
from spectral.sequence.span import Span

NUM_BANDS = 4
NUM_SINUSOIDS = 4
CROSS_HEAD_DROPOUT = 0.1


def band_of_bin(num_bins: int) -> Tensor:
    """The band 0 (coarse, low frequencies) to 3 (fine) of each bin, a partition of all of them."""
    return torch.arange(num_bins) * NUM_BANDS // num_bins


class SpectralGate(nn.Module):
    """Complex gate [R, H, M] from the spectrum [R, H, N, M] that it is to multiply.

    Every part is switched on by its key of `[model.gates]` and begins as the identity: band gates
    of magnitude and phase, soft thresholds, phase functions of frequency, communication between
    heads, mixing of magnitudes, a residual, frequency dropout, and the selection of a few bins.
    """

    def __init__(self, config: GatesConfig, num_heads: int, num_bins: int):
        super().__init__()
        H, M = num_heads, num_bins
        self.config_names = [name for name in GATE_PARTS if getattr(config, name)]
        self.frequency_dropout = config.frequency_dropout
        if config.bands:
            self.band_magnitude = nn.Linear(H * NUM_BANDS, H * NUM_BANDS)
            self.band_phase = nn.Linear(H * NUM_BANDS, H * NUM_BANDS)
        if config.soft_threshold:
            self.threshold_H = nn.Parameter(torch.empty(H))
        if config.phase_functions:
            self.phase_amplitude_HS = nn.Parameter(torch.empty(H, NUM_SINUSOIDS))
            self.phase_frequency_HS = nn.Parameter(torch.empty(H, NUM_SINUSOIDS))
        if config.cross_head:
            self.cross_head_in = nn.Linear(H, 2 * H)
            self.cross_head_out = nn.Linear(2 * H, H)
        if config.magnitude_mixing:
            self.mixing_HMM = nn.Parameter(torch.empty(H, M, M))
        if config.residual:
            self.residual_H = nn.Parameter(torch.empty(H))
        self.selector: BinSelector | None = None
        if config.selection:
            self.selector = BinSelector(H, config.selection_parts)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin as the identity, except that sinusoids begin at 1, 2, 3, 4 periods."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        if "soft_threshold" in self.config_names:
            # softplus(-4) = 0.018 of a head's mean magnitude
            nn.init.constant_(self.threshold_H, -4.0)
        if "cross_head" in self.config_names:
            nn.init.normal_(self.cross_head_in.weight, std=self.cross_head_in.in_features**-0.5)
        if "phase_functions" in self.config_names:
            periods_S = torch.arange(1.0, NUM_SINUSOIDS + 1.0)
            with torch.no_grad():
                self.phase_frequency_HS.copy_(periods_S.expand_as(self.phase_frequency_HS))
        if self.selector is not None:
            self.selector.reset_parameters()

    def forward(
        self,
        spectrum_RHNM: Tensor,
        batch: int = 1,
        layout: Layout = SINGLE_DEVICE,
        *,
        noise: bool = True,
    ) -> tuple[Tensor, GateLosses]:
        """The gate of a spectrum, and its auxiliary losses.

        Args:
            spectrum_RHNM: Complex.
            batch: Number of sequences that the rows belong to.
            layout: Where other heads, random numbers and sums over the sequence come from.
            noise: Whether training draws random numbers here.

        Returns:
            (gate_RHM, complex; auxiliary losses).

        Cost: O(R H (N M + M (H + M))).
        """
        energy_RHM = layout.heads.gather(spectral_energy(spectrum_RHNM))
        magnitude_RHM = (energy_RHM + EPSILON).sqrt()
        # scale-free features: slow modes gather far more energy than fast ones
        feature_RHM = F.layer_norm(magnitude_RHM.log(), magnitude_RHM.shape[-1:])
        source = layout.span if noise and self.training else None
        gain_RHM = self._gain(magnitude_RHM, feature_RHM, batch, source)
        keep_RHM = torch.ones_like(magnitude_RHM)
        if self.selector is not None:
            keep_RHM = self.selector(feature_RHM, batch, source)
        if self.frequency_dropout > 0.0 and source is not None:
            # whole bins, real and imaginary part together
            kept_RHM = source.uniform(gain_RHM, batch) >= self.frequency_dropout
            keep_RHM = keep_RHM * kept_RHM / (1.0 - self.frequency_dropout)
        phase_RHM, limit_RH = self._phase(feature_RHM), self._limit(magnitude_RHM)
        rest_H = magnitude_RHM.new_zeros(magnitude_RHM.shape[1])
        if "residual" in self.config_names:
            # 0.5 at first: half of the spectrum passes whatever the gate says
            rest_H = self.residual_H.sigmoid()
        gate_RHM = gate_values(
            GateParts(magnitude_RHM, gain_RHM, phase_RHM, limit_RH, rest_H, keep_RHM)
        )
        losses = gate_losses(energy_RHM, gate_RHM, layout.span)
        local_losses = GateLosses(*(layout.heads.loss(loss) for loss in losses))
        return layout.heads.local(gate_RHM), local_losses

    def _gain(
        self, magnitude_RHM: Tensor, feature_RHM: Tensor, batch: int, noise: Span | None
    ) -> Tensor:
        gain_RHM = torch.ones_like(feature_RHM)
        if "bands" in self.config_names:
            logits_RHK = self._bands(self.band_magnitude, feature_RHM)
            gain_RHM = gain_RHM * (2.0 * logits_RHK.sigmoid())[..., self._band(feature_RHM)]
        if "cross_head" in self.config_names:
            head_RH = magnitude_RHM.log().mean(-1)
            hidden = F.gelu(self.cross_head_in(F.layer_norm(head_RH, head_RH.shape[-1:])))
            if noise is not None:
                kept = noise.uniform(hidden, batch) >= CROSS_HEAD_DROPOUT
                hidden = hidden * kept / (1.0 - CROSS_HEAD_DROPOUT)
            gain_RHM = gain_RHM * (1.0 + self.cross_head_out(hidden).tanh())[..., None]
        if "magnitude_mixing" in self.config_names:
            # magnitudes are mixed among bins, phases are not: order is not lost
            M = magnitude_RHM.shape[-1]
            mixing_HMM = self.mixing_HMM[:, :M, :M].tanh()
            mixed_RHM = torch.einsum("rhm,hmk->rhk", magnitude_RHM, mixing_HMM)
            share_RHM = mixed_RHM / magnitude_RHM.sum(-1, keepdim=True)
            gain_RHM = gain_RHM * F.softplus(share_RHM) / math.log(2.0)
        return gain_RHM

    def _limit(self, magnitude_RHM: Tensor) -> Tensor:
        if "soft_threshold" in self.config_names:
            return F.softplus(self.threshold_H) * magnitude_RHM.mean(-1)
        return torch.zeros_like(magnitude_RHM[..., 0])

    def _phase(self, feature_RHM: Tensor) -> Tensor:
        phase_RHM = torch.zeros_like(feature_RHM)
        if "bands" in self.config_names:
            logits_RHK = self._bands(self.band_phase, feature_RHM)
            phase_RHM = phase_RHM + (math.pi * logits_RHK.tanh())[..., self._band(feature_RHM)]
        if "phase_functions" in self.config_names:
            M = feature_RHM.shape[-1]
            place_M = torch.arange(M, dtype=feature_RHM.dtype, device=feature_RHM.device) / M
            angle_HSM = 2.0 * math.pi * self.phase_frequency_HS[..., None] * place_M
            function_HM = (self.phase_amplitude_HS[..., None] * angle_HSM.sin()).sum(1)
            phase_RHM = phase_RHM + function_HM
        return phase_RHM

    def _band(self, feature_RHM: Tensor) -> Tensor:
        # not a buffer: transformers builds models without data and fills in what was saved only
        return band_of_bin(feature_RHM.shape[-1]).to(feature_RHM.device)

    def _bands(self, linear: nn.Linear, feature_RHM: Tensor) -> Tensor:
        member_MK = F.one_hot(self._band(feature_RHM), NUM_BANDS).to(feature_RHM.dtype)
        # a spectrum of fewer bins than bands leaves some of them empty
        band_RHK = feature_RHM @ (member_MK / member_MK.sum(0).clamp_min(1.0))
        return linear(band_RHK.flatten(-2)).view(band_RHK.shape)


def uses_gates(config: GatesConfig) -> bool:
    """Whether any part of the gates is switched on."""
    return any(getattr(config, name) for name in GATE_PARTS)
