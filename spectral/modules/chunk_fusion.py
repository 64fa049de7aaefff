"""Cross-chunk fusion: chunks read one another's spectra by query and key, without softmax.

    Y_j[k] = sum_i gamma^|j - i| (q_j . key_i)_band(k) e^(i phi_k (j - i)) X_i[k]

Queries and keys are learned maps of a chunk's band energies, values are its spectrum. phi_k is
the rotation of bin k from one chunk to the next, a rotary phase in the frequency domain: each bin
continues as a sinusoid. A sum without softmax is a linear recurrence over chunks, so it
is carried like every other state, in constant memory.

Shape letters: B batch, J chunks, H head, N channels of a head, K bins, G bands, R features of
queries and keys (R - 1 learned and a constant one), S = R * N * K numbers of the carried state.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral.layout import SINGLE_DEVICE, HeadGroup

ALL_HEADS = SINGLE_DEVICE.heads
EPSILON = 1e-6


def octave_of_bin(num_bins: int, num_bands: int) -> Tensor:
    """Band of each bin, coarse to fine; 4 bands end at 1/8, 1/4, 1/2 and 1 times Nyquist's."""
    place_K = torch.arange(num_bins) / max(num_bins - 1, 1)
    end_G = 0.5 ** torch.arange(num_bands - 1, 0, -1)
    return torch.bucketize(place_K, end_G, right=False)


def group_mean(values_K: Tensor, group_K: Tensor, num_groups: int) -> Tensor:
    """Mean of the last dimension over each group; zero for an empty one."""
    sums = values_K.new_zeros(*values_K.shape[:-1], num_groups).index_add(-1, group_K, values_K)
    return sums / group_K.bincount(minlength=num_groups).clamp(min=1).to(values_K.dtype)


class ChunkFusion(nn.Module):
    """Queries, keys and decays of all heads, and a scale for each head and band.

    Without learned features (R = 1) all chunks have equal weight, except for the decay.
    """

    def __init__(self, num_heads: int, head_dim: int, num_features: int, num_bands: int):
        super().__init__()
        self.num_features, self.num_bands = num_features, num_bands
        if num_features > 1:
            self.query_key = nn.Parameter(torch.empty(num_heads, head_dim, 2 * (num_features - 1)))
        self.band_scale_HG = nn.Parameter(torch.empty(num_heads, num_bands))
        self.log_decay_H = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise with time constants log-spaced from 1 to 64 chunks and equal bands."""
        if self.num_features > 1:
            nn.init.normal_(self.query_key, std=self.query_key.shape[1] ** -0.5)
        nn.init.ones_(self.band_scale_HG)
        with torch.no_grad():
            log_tau_H = torch.linspace(0.0, math.log(64.0), self.log_decay_H.shape[0])
            self.log_decay_H.copy_(-log_tau_H)

    def decay(self, heads: HeadGroup = ALL_HEADS) -> Tensor:
        """Decay gamma of each head [H], below 1."""
        return (-heads.share(self.log_decay_H).exp()).exp()

    def scales(self, num_bins: int, heads: HeadGroup = ALL_HEADS) -> Tensor:
        """The learned scale of each head's bins [H, K]."""
        return heads.share(self.band_scale_HG)[:, self._band(num_bins)]

    def features(
        self, spectrum_BJHNK: Tensor, heads: HeadGroup = ALL_HEADS
    ) -> tuple[Tensor, Tensor]:
        """Query and key of every chunk, head and band: real [B, J, H, G, R], at most 1 in length.

        They do not depend on a chunk's loudness. Their first number is constant, so later chunks
        read some of every chunk.
        """
        if self.num_features == 1:
            shape = *spectrum_BJHNK.shape[:3], self.num_bands, 1
            constant = self.band_scale_HG.new_full(shape, 0.5**0.5)
            return constant, constant
        band_K = self._band(spectrum_BJHNK.shape[-1])
        energy_BJHNG = group_mean(spectrum_BJHNK.abs().square(), band_K, self.num_bands)
        shape_BJHGN = (energy_BJHNG + EPSILON).log().transpose(-1, -2)
        shape_BJHGN = F.layer_norm(shape_BJHGN, shape_BJHGN.shape[-1:])
        projected = torch.einsum("bjhgn,hnr->bjhgr", shape_BJHGN, heads.share(self.query_key))
        query, key = (self._unit(part) for part in projected.chunk(2, dim=-1))
        return query, key

    def _unit(self, features_R: Tensor) -> Tensor:
        unit_R = features_R * (features_R.square().sum(-1, keepdim=True) + EPSILON).rsqrt()
        return torch.cat([torch.ones_like(unit_R[..., :1]), unit_R], dim=-1) / math.sqrt(2.0)

    def write(self, spectrum_BJHNK: Tensor, key_BJHGR: Tensor, phase_JK: Tensor) -> Tensor:
        """Contribution of each chunk to the state: complex [B, J, H, S]."""
        rotated_BJHNK = spectrum_BJHNK * phase_JK.conj()[:, None, None]
        key_BJHRK = self._by_bin(key_BJHGR, phase_JK.shape[-1])
        return (key_BJHRK[..., None, :] * rotated_BJHNK[..., None, :, :]).flatten(-3)

    def read(self, state_BJHS: Tensor, query_BJHGR: Tensor, phase_JK: Tensor) -> Tensor:
        """Spectrum that each chunk reads from the state: [B, J, H, N, K]."""
        K = phase_JK.shape[-1]
        state_BJHRNK = state_BJHS.unflatten(-1, (self.num_features, -1, K))
        query_BJHRK = self._by_bin(query_BJHGR, K)
        return (query_BJHRK[..., None, :] * state_BJHRNK).sum(-3) * phase_JK[:, None, None]

    def _by_bin(self, features_BJHGR: Tensor, num_bins: int) -> Tensor:
        """[B, J, H, R, K]: the features of each bin's band."""
        return features_BJHGR.transpose(-1, -2)[..., self._band(num_bins)]

    def _band(self, num_bins: int) -> Tensor:
        return octave_of_bin(num_bins, self.num_bands).to(self.band_scale_HG.device)


def phase_rotation(first: int, num_chunks: int, chunk: int, frame: int, like: Tensor) -> Tensor:
    """e^(i phi_k j) for chunks j = first ...: complex [J, K], exact for any j.

    Args:
        first: Index of the first chunk in the sequence.
        num_chunks: Number of chunks J.
        chunk: Tokens from one frame to the next.
        frame: Points F of the FFT.
        like: A real tensor of the wanted precision and device.
    """
    bin_K = torch.arange(frame // 2 + 1, device=like.device)
    index_J1 = torch.arange(first, first + num_chunks, device=like.device)[:, None]
    # whole rotations are dropped in integers, before anything is rounded
    angle_JK = (index_J1 * chunk % frame * bin_K % frame).double() * (2.0 * math.pi / frame)
    return torch.polar(torch.ones_like(angle_JK), angle_JK).to(
        torch.complex128 if like.dtype == torch.float64 else torch.complex64
    )
