"""Adaptive frequency selection: each head reads 12% to 45% of its bins, chosen by their content.

Shape letters: R rows (batch times chunks), H head, M bins, P patterns, Q query channels, W hidden.
"""

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral.gates.keys import SELECTION_PARTS, SelectionPart
from spectral.sequence.span import Span

MIN_SHARE, MAX_SHARE = 0.12, 0.45
SCALES = (1, 2, 4, 8)
NUM_PATTERNS = 16
QUERY_DIM = 16


class BinSelector(nn.Module):
    """A 0/1 mask [R, H, M] with a straight-through gradient.

    The k bins of the best scores are kept. What is switched on decides how:

    - `importance`: a network's judgement of the energies of all heads at the bin's frequency;
      without it the head's own energy
    - `scales`: this smoothed over neighbourhoods of 1, 2, 4 and 8 bins
    - `context`: plus sinusoidal patterns, energy, and what other frequencies say by query and key
    - `head_ranges`: heads begin on different frequency ranges, each with a learned importance
    - `noise`: Gumbel noise of a learned temperature explores while training
    - `adaptive_share`: k follows from a learned share per head; without it, from the middle one

    Source: Gumbel top-k (Kool et al. 2019, arXiv 1903.06059) with a straight-through estimator.
    """

    def __init__(self, num_heads: int, parts: Collection[SelectionPart] = SELECTION_PARTS):
        super().__init__()
        H, W = num_heads, max(16, 2 * num_heads)
        self.num_heads, self.parts = num_heads, frozenset(parts)
        if "importance" in self.parts:
            self.importance = nn.Sequential(
                *(nn.LayerNorm(H), nn.Linear(H, W), nn.GELU()),
                *(nn.Linear(W, W), nn.GELU(), nn.Linear(W, H)),
            )
        if "context" in self.parts:
            self.pattern_weight_HP = nn.Parameter(torch.empty(H, NUM_PATTERNS))
            self.pattern_frequency_HP = nn.Parameter(torch.empty(H, NUM_PATTERNS))
            self.pattern_phase_HP = nn.Parameter(torch.empty(H, NUM_PATTERNS))
            self.energy_weight_H = nn.Parameter(torch.empty(H))
            self.query = nn.Linear(H, QUERY_DIM, bias=False)
            self.key = nn.Linear(H, QUERY_DIM, bias=False)
        if "head_ranges" in self.parts:
            self.head_importance_H = nn.Parameter(torch.empty(H))
            self.range_center_H = nn.Parameter(torch.empty(H))
        if "adaptive_share" in self.parts:
            self.share_H = nn.Parameter(torch.empty(H))
        if "noise" in self.parts:
            # of one element, not none: DeepSpeed cannot broadcast 0-dimensional parameters
            self.log_temperature = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads begin on different frequency ranges, with equal importance and a middling share."""
        H = self.num_heads
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.LayerNorm):
                    module.reset_parameters()
                if isinstance(module, nn.Linear):
                    module.weight.normal_(std=module.in_features**-0.5)
                    if module.bias is not None:
                        module.bias.zero_()
            if "context" in self.parts:
                self.pattern_weight_HP.normal_(std=0.1 / math.sqrt(NUM_PATTERNS))
                periods_P = torch.arange(1.0, NUM_PATTERNS + 1.0) / 2.0
                self.pattern_frequency_HP.copy_(periods_P.expand(H, -1))
                self.pattern_phase_HP.uniform_(0.0, 2.0 * math.pi)
                self.energy_weight_H.fill_(1.0)
            if "head_ranges" in self.parts:
                self.head_importance_H.zero_()
                self.range_center_H.copy_((torch.arange(H) + 0.5) / H)
            if "adaptive_share" in self.parts:
                self.share_H.zero_()
            if "noise" in self.parts:
                self.log_temperature.zero_()

    def forward(self, feature_RHM: Tensor, batch: int = 1, noise: Span | None = None) -> Tensor:
        """The mask of each row and head.

        Args:
            feature_RHM: Normalised logarithm of the bins' magnitudes.
            batch: How many sequences the rows are of.
            noise: Where random numbers come from; none if None.

        Returns:
            mask_RHM, real: exactly 0 or 1 in value.

        Cost: O(R M H (H + M)).
        """
        score_RHM = self.scores(feature_RHM)
        temperature = score_RHM.new_ones(1)
        if "noise" in self.parts:
            temperature = self.log_temperature.exp()
        if "noise" in self.parts and noise is not None:
            uniform = noise.uniform(score_RHM, batch).clamp_min(1e-9)
            score_RHM = score_RHM - temperature * (-uniform.log()).clamp_min(1e-9).log()
        M = score_RHM.shape[-1]
        share_H1 = self.shares().to(score_RHM.device)[:, None]
        count_H1 = self.counts(M).to(score_RHM.device)[:, None]
        sorted_RHM, order_RHM = score_RHM.sort(dim=-1, descending=True)
        last_RH1 = sorted_RHM.gather(-1, (count_H1 - 1).expand(*score_RHM.shape[:2], 1))
        hard_RHM = (order_RHM.argsort(-1) < count_H1).to(score_RHM.dtype)
        # the share moves the soft mask as a lower threshold would
        shift_H1 = (share_H1 - share_H1.detach()) * M
        soft_RHM = ((score_RHM - last_RH1.detach()) / temperature + shift_H1).sigmoid()
        return hard_RHM + (soft_RHM - soft_RHM.detach())

    def shares(self) -> Tensor:
        """Share of bins of each head, between 12% and 45%."""
        if "adaptive_share" not in self.parts:
            return torch.full((self.num_heads,), (MIN_SHARE + MAX_SHARE) / 2.0)
        return MIN_SHARE + (MAX_SHARE - MIN_SHARE) * self.share_H.sigmoid()

    def counts(self, num_bins: int) -> Tensor:
        """Bins that each head keeps: 12% to 45% of them; one, if there are fewer than 3."""
        least, most = math.ceil(MIN_SHARE * num_bins), math.floor(MAX_SHARE * num_bins)
        return (self.shares() * num_bins).round().long().clamp(least, max(least, most))

    def scores(self, feature_RHM: Tensor) -> Tensor:
        """Importance of each bin before noise and choice: [R, H, M]."""
        M = feature_RHM.shape[-1]
        by_bin_RMH = feature_RHM.transpose(1, 2)
        place_M = torch.arange(M, device=feature_RHM.device, dtype=feature_RHM.dtype) / M
        score_RHM = feature_RHM
        if "importance" in self.parts:
            score_RHM = self.importance(by_bin_RMH).transpose(1, 2)
        if "scales" in self.parts:
            smooth = [_smooth(score_RHM, size) * 0.5**scale for scale, size in enumerate(SCALES)]
            score_RHM = torch.stack(smooth).sum(0)
        if "context" in self.parts:
            affinity_RMM = self.query(by_bin_RMH) @ self.key(by_bin_RMH).transpose(1, 2)
            context_RMH = (affinity_RMM / (math.sqrt(QUERY_DIM) * M)) @ by_bin_RMH
            angle_HPM = 2.0 * math.pi * self.pattern_frequency_HP[..., None] * place_M
            wave_HPM = (angle_HPM + self.pattern_phase_HP[..., None]).sin()
            pattern_HM = (self.pattern_weight_HP[..., None] * wave_HPM).sum(1)
            score_RHM = score_RHM + context_RMH.transpose(1, 2) + pattern_HM
            score_RHM = score_RHM + self.energy_weight_H[:, None] * feature_RHM
        if "head_ranges" in self.parts:
            distance_HM = place_M + 0.5 / M - self.range_center_H[:, None]
            score_RHM = self.head_importance_H.exp()[:, None] * score_RHM - distance_HM.abs()
        return score_RHM


def _smooth(score_RHM: Tensor, size: int) -> Tensor:
    """Mean over neighbourhoods of `size` bins, at every bin's place."""
    M = score_RHM.shape[-1]
    pooled = F.avg_pool1d(score_RHM, size, ceil_mode=True, count_include_pad=False)
    return pooled.repeat_interleave(size, dim=-1)[..., :M]
