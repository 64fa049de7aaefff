"""Spectral fusion: a target reads its source by content and phase, in place of cross-attention.

    S_b = sum_s e^(-i w_b p(s)) k_s v_s^T
    y_t = sum_b g_b(t) Re e^(i (w_b r p(t) + phi_b)) q_t^T S_b

The source is summed once into a state per head and band; every target token reads all of it.
Content chooses by q and k; in band b the phases agree where r p(t) = p(s), so bands together are a
soft alignment of positions, with a learned rate r, phases phi_b and gates g_b. Band 0 has no
frequency: content alone. Each is a recall head that only source tokens write, so packed rows and
spans need nothing of their own: a pair is a document, whose source comes first.

Shape letters: B batch, T time (tokens), D channels, H heads, G bands, K key channels of a band,
V value channels, F = 2 G K, C time inside a chunk, N = B times chunks.
"""

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.norm_gate.op import norm_gate
from kernels.precision import full_precision
from spectral.config import ModelConfig
from spectral.layout import Layout
from spectral.modules.linear import Linear, WideLinear
from spectral.modules.norm import RMSNorm
from spectral.modules.recall import recall
from spectral.sequence.documents import ChunkDocuments, chunk_documents


class SourceTokens(NamedTuple):
    """Sources of packed pairs, and where the tokens of both sides are.

    Attributes:
        x_BTD: Normalised hidden states of the sources, at their places in the row.
        is_source_BT: Which tokens are of a source.
        place_BT: Number of each token within its side of its pair.
        documents: Borders of pairs, in chunks of `chunk` tokens.
        chunk: Tokens of a chunk.
        layout: Layout of the model.
    """

    x_BTD: Tensor
    is_source_BT: Tensor
    place_BT: Tensor
    documents: ChunkDocuments
    chunk: int
    layout: Layout


class SourceStates(NamedTuple):
    """Sources that have been read, and the place of the target tokens that read them.

    Attributes:
        layers: State [B, H, F, V] of each layer.
        place_BT: Number of each token within its target.
    """

    layers: tuple[Tensor, ...]
    place_BT: Tensor


def source_tokens(
    x_BTD: Tensor, segment_ids_BT: Tensor, layout: Layout, chunk: int
) -> SourceTokens:
    """Packed pairs, of which pair n has the segment 2 n, its source, and 2 n + 1, its target."""
    T = segment_ids_BT.shape[1]
    chunk = min(chunk, T)
    whole_BS = layout.transposition.whole_ids(segment_ids_BT)
    time_S = torch.arange(whole_BS.shape[1], device=whole_BS.device)
    starts_BS = torch.diff(whole_BS, prepend=whole_BS[:, :1]) != 0
    place_BS = time_S - (starts_BS * time_S).cummax(dim=1).values
    first = layout.span.position(T)
    pairs_BT = segment_ids_BT // 2
    before_B1 = layout.span.before(segment_ids_BT, 1)
    documents = chunk_documents(pairs_BT, chunk, None if before_B1 is None else before_B1 // 2)
    return SourceTokens(
        x_BTD, segment_ids_BT % 2 == 0, place_BS[:, first : first + T], documents, chunk, layout
    )


class SpectralFusion(nn.Module):
    """y = out_proj(norm(reading of the source) * silu(gate)), added before a decoder's block.

    Cost: O(T H (C (F + V) + F V)) for packed pairs; a decoded token O(D^2 + H F V), whatever the
    length of its source.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        D, H = config.dim, config.num_heads
        G, K = config.source_bands, config.source_dim
        self.num_bands, self.key_dim, self.head_dim = G, K, D // H
        self.norm_eps = config.norm_eps
        self.norm = RMSNorm(D, eps=config.norm_eps)
        self.query = Linear(D, H * K, bias=False)
        self.key = Linear(D, H * K, bias=False)
        self.value = Linear(D, D, bias=False)
        self.gate = Linear(D, D, bias=False)
        self.band_gate = WideLinear(D, H * G)
        self.log_rate = nn.Parameter(torch.empty(H))
        self.log_frequency = nn.Parameter(torch.empty(H, G))
        self.phase = nn.Parameter(torch.empty(H, G))
        self.head_norm = nn.Parameter(torch.empty(D))
        self.out_proj = Linear(D, D, bias=False)

    @property
    def num_heads(self) -> int:
        """Number of heads on this device."""
        return self.log_rate.shape[0]

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Initialise; wavelengths of the bands are log-spaced from 4 tokens to 256."""
        self.norm.reset_parameters()
        for part in (self.query, self.key, self.value, self.gate):
            nn.init.normal_(part.weight, std=std)
        nn.init.normal_(self.out_proj.weight, std=out_std)
        nn.init.zeros_(self.band_gate.weight)
        nn.init.zeros_(self.band_gate.bias)
        nn.init.zeros_(self.log_rate)
        nn.init.zeros_(self.phase)
        nn.init.ones_(self.head_norm)
        with torch.no_grad():
            wavelength_G = torch.logspace(math.log10(4.0), math.log10(256.0), self.num_bands)
            self.log_frequency.copy_((2.0 * math.pi / wavelength_G).log().expand_as(self.phase))

    def forward(self, x_BTD: Tensor, source: SourceTokens) -> Tensor:
        """Reading of its source by every target token; what source tokens get is of no use."""
        x_BTD = self.norm(x_BTD)
        y_BTHV, _ = self._recall(self._queries(x_BTD, source.place_BT), source)
        return self._output(x_BTD, y_BTHV)

    def states(self, source: SourceTokens) -> Tensor:
        """State [B, H, F, V] of rows of one pair each, after its source."""
        nothing = torch.zeros_like(self._keys(source.x_BTD, source))
        return self._recall(nothing, source)[1]

    def read(self, x_BTD: Tensor, state_BHFV: Tensor, place_BT: Tensor) -> Tensor:
        """As `forward`, of targets whose source has been read."""
        x_BTD = self.norm(x_BTD)
        q_BTHF = self._queries(x_BTD, place_BT)
        return self._output(x_BTD, torch.einsum("bthf,bhfv->bthv", q_BTHF, state_BHFV))

    def _recall(self, q_BTHF: Tensor, source: SourceTokens) -> tuple[Tensor, Tensor]:
        k_BTHF = self._keys(source.x_BTD, source)
        v_BTHV = full_precision(self.value(source.x_BTD)).unflatten(-1, (self.num_heads, -1))
        B, T = q_BTHF.shape[:2]
        never = q_BTHF.new_zeros(B, T, self.num_heads)
        q, k, v = (_chunks(part, source.chunk) for part in (q_BTHF, k_BTHF, v_BTHV))
        return recall(q, k, v, never, source.documents, None, source.layout.span)

    def _queries(self, x_BTD: Tensor, place_BT: Tensor) -> Tensor:
        q_BTHK = full_precision(self.query(x_BTD)).unflatten(-1, (self.num_heads, -1))
        gate_BTHG = 2.0 * self.band_gate(x_BTD).sigmoid().unflatten(-1, (self.num_heads, -1))
        rate_H1 = self.log_rate.double().exp()[:, None]
        angle_BTHG = self._angles(place_BT, rate_H1) + self.phase.double()
        # the sum over bands keeps the size of one
        scale = (self.key_dim * self.num_bands) ** -0.5
        return self._by_band(q_BTHK, angle_BTHG, gate_BTHG.to(q_BTHK.dtype) * scale)

    def _keys(self, x_BTD: Tensor, source: SourceTokens) -> Tensor:
        k_BTHK = full_precision(self.key(x_BTD)).unflatten(-1, (self.num_heads, -1))
        k_BTHK = F.normalize(k_BTHK, dim=-1) * source.is_source_BT[..., None, None]
        angle_BTHG = self._angles(source.place_BT, 1.0)
        return self._by_band(k_BTHK, angle_BTHG, torch.ones_like(angle_BTHG).to(k_BTHK.dtype))

    def _angles(self, place_BT: Tensor, rate: Tensor | float) -> Tensor:
        """Phases at places, in float64: those of long texts lose precision in float32."""
        frequency_HG = self.log_frequency.double().exp()
        # content alone
        frequency_HG = torch.cat(
            [torch.zeros_like(frequency_HG[:, :1]), frequency_HG[:, 1:]], dim=1
        )
        return place_BT.double()[..., None, None] * (frequency_HG * rate)

    def _by_band(self, x_BTHK: Tensor, angle_BTHG: Tensor, scale_BTHG: Tensor) -> Tensor:
        turned = torch.stack([angle_BTHG.cos(), angle_BTHG.sin()], dim=-1).to(x_BTHK.dtype)
        turned = turned * scale_BTHG[..., None]
        return (turned[..., None] * x_BTHK[..., None, None, :]).flatten(-3)

    def _output(self, x_BTD: Tensor, y_BTHV: Tensor) -> Tensor:
        gate_BTD = self.gate(x_BTD)
        y_BTD = y_BTHV.flatten(-2).to(gate_BTD.dtype)
        normed = norm_gate(y_BTD, gate_BTD, self.head_norm, self.num_heads, self.norm_eps)
        return cast(Tensor, self.out_proj(normed))


def _chunks(x_BTHF: Tensor, chunk: int) -> Tensor:
    """[N, H, C, F]: the sequence in chunks, with zeros after its end."""
    T = x_BTHF.shape[1]
    padded = F.pad(x_BTHF, (0, 0, 0, 0, 0, -T % chunk))
    return padded.unflatten(1, (-1, chunk)).flatten(0, 1).transpose(1, 2).contiguous()
