"""The `[model]` table of a run file: a spectral language model's parts (imports no torch)."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from spectral.gate_keys import GATE_PARTS, SELECTION_PARTS, SelectionPart
from spectral.layer_pattern import head_mixture
from spectral.wavelet_bank import check_bank, filter_bank

Positive = Annotated[int, Field(ge=1)]


class ModelConfig(BaseModel):
    """Architecture of a `SpectralLM`. No parameter depends on the sequence length.

    Raises:
        ValueError: An unknown key, a value out of range or sizes that do not fit together.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    vocab_size: Positive = Field(4096, description="Rows of the embedding.")
    dim: Positive = Field(256, description="Channels of the residual stream.")
    num_layers: Positive = Field(6, description="Blocks of mixer and feed-forward.")
    num_heads: Positive = Field(4, description="Heads of every mixer; dim is divided among them.")
    conv_heads: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="Convolution heads of each layer that has heads, repeated over them; the "
        "others are recall heads. '2' mixes both in every layer of 4 heads, '4 0' takes layers of "
        "each kind by turns, as does none for any num_heads.",
    )
    mixers: tuple[Literal["heads", "fft", "wavelet"], ...] = Field(
        ("heads",),
        min_length=1,
        description="Mixer of each layer, repeated over the layers: convolution and recall heads, "
        "the hierarchical FFT or wavelets.",
    )
    causal: bool = Field(
        True, description="Whether a token sees only those before it. False makes an encoder."
    )
    fft_chunk: Positive = Field(
        8_192, description="New tokens per frame of the hierarchical FFT; part of the model."
    )
    fft_direct: Positive = Field(
        16_384, description="Longest sequence that an encoder's FFT takes in one frame."
    )
    fft_overlap: float = Field(
        0.125, gt=0.0, le=0.5, description="Tokens that frames share, as a share of fft_chunk."
    )
    fusion_dim: int = Field(
        4,
        ge=1,
        description="Numbers per head and band by which chunks of the FFT find one another; the "
        "first is constant, with 1 all are heard alike.",
    )
    fft_bands: Positive = Field(
        4, description="Octave bands of the FFT, coarse to fine, each with a scale and a query."
    )
    wavelet: str = Field("db4", description="Family of wavelets, by its name in PyWavelets.")
    wavelet_levels: Positive = Field(3, description="Levels of wavelet analysis.")
    wavelet_bank: tuple[float, ...] = Field(
        (),
        description="The family's filters (analysis low, high, synthesis low, high), as many "
        "numbers each; looked up by name if left out.",
    )
    num_modes: Positive = Field(
        16, description="Modes (damped sinusoids) of each channel's filter."
    )
    conv_chunk: Positive = Field(
        64,
        description="Tokens per FFT chunk of convolution heads; without gates, any gives the same.",
    )
    recall_chunk: Positive = Field(64, description="Tokens per chunk of recall heads.")
    short_conv: Positive = Field(4, description="Taps of the short convolution on q, k and v.")
    embedding: Literal["table", "harmonic"] = Field(
        "table", description="Free vectors, or sums of 16 sinusoids: 48 numbers per token."
    )
    feed_forward: Literal["gated", "frequency", "experts"] = Field(
        "gated",
        description="Gated linear unit, its blend with a filter over the features, or a mixture of "
        "gated linear units of which each token uses a few.",
    )
    ffn_dim: Positive = Field(
        688, description="Hidden channels of the gated feed-forward, or of every expert."
    )
    num_experts: Positive = Field(8, description="Experts of each layer's mixture.")
    experts_per_token: Positive = Field(2, description="Experts that each token is fed to.")
    balance_weight: float = Field(
        0.01, ge=0.0, description="Of the auxiliary loss that asks for experts to be used alike."
    )
    router_z_weight: float = Field(
        0.001, ge=0.0, description="Of the auxiliary loss that keeps router logits small."
    )
    band_gates: bool = Field(
        False, description="Gate magnitude and phase of what is carried, per head and band of 4."
    )
    soft_threshold: bool = Field(
        False, description="Read nothing of modes below a learned share of the head's magnitude."
    )
    phase_functions: bool = Field(
        False, description="Turn phases by 4 learned sinusoids of frequency per head."
    )
    cross_head: bool = Field(False, description="Let heads scale one another through a network.")
    magnitude_mixing: bool = Field(
        False, description="Mix magnitudes among the modes of a head; phases stay."
    )
    gate_residual: bool = Field(False, description="Let a learned share of the spectrum pass.")
    bin_selection: bool = Field(
        False, description="Read 12% to 45% of the modes of each head, chosen by content."
    )
    selection_parts: tuple[SelectionPart, ...] = Field(
        SELECTION_PARTS, description="What bin_selection chooses by; without any, by energy."
    )
    frequency_dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of modes that training drops whole."
    )
    entropy_weight: float = Field(
        0.0, ge=0.0, description="Of the auxiliary loss that asks for all modes to be used."
    )
    consistency_weight: float = Field(
        0.0, ge=0.0, description="Of the auxiliary loss between the read and the carried spectrum."
    )
    max_time_constant: float = Field(
        204_800.0, ge=2.0, description="Longest memory (tokens) that modes are initialised with."
    )
    rotary_base: float = Field(10_000.0, gt=1.0, description="Base of the rotary frequencies.")
    norm_eps: float = Field(1e-6, gt=0.0, description="Added to the mean square in RMSNorm.")

    @model_validator(mode="before")
    @classmethod
    def _look_up_wavelet(cls, values: Any) -> Any:
        if isinstance(values, dict) and "wavelet" in values.get("mixers", ()):
            name = values.get("wavelet", cls.model_fields["wavelet"].default)
            if not isinstance(name, str):
                return values
            if not values.get("wavelet_bank"):
                return values | {"wavelet_bank": filter_bank(name)}
            check_bank(name, values["wavelet_bank"])
        return values

    @model_validator(mode="after")
    def _sizes_fit(self) -> "ModelConfig":
        if self.dim % self.num_heads:
            raise ValueError(
                f"dim must be a multiple of num_heads, got dim={self.dim}, "
                f"num_heads={self.num_heads}"
            )
        head_dim = self.dim // self.num_heads
        if max(head_mixture(self)) > self.num_heads:
            raise ValueError(
                f"conv_heads must be at most num_heads={self.num_heads}, got {self.conv_heads}"
            )
        if min(head_mixture(self)) < self.num_heads and head_dim % 2:
            raise ValueError(
                "recall heads rotate pairs of channels: dim / num_heads must be even, "
                f"got {head_dim}"
            )
        if len(self.wavelet_bank) % 8:
            raise ValueError(
                "wavelet_bank must hold four filters of one even length, got "
                f"{len(self.wavelet_bank)} numbers"
            )
        only_heads = set(self.mixers) == {"heads"}
        gates = any(getattr(self, name) for name in GATE_PARTS)
        if only_heads and max(head_mixture(self)) == 0 and gates:
            raise ValueError(
                "gates act on convolution heads: expected some in conv_heads, got "
                f"{self.conv_heads} and {[n for n in GATE_PARTS if getattr(self, n)]}"
            )
        if self.feed_forward == "experts" and self.experts_per_token > self.num_experts:
            raise ValueError(
                f"experts_per_token must be at most num_experts={self.num_experts}, got "
                f"{self.experts_per_token}"
            )
        if self.bin_selection and self.num_modes < 3:
            raise ValueError(
                f"num_modes must be at least 3 to select 12% to 45% of them, got {self.num_modes}"
            )
        if self.band_gates and self.num_modes < 4:
            raise ValueError(
                f"num_modes must be at least 4 for gates per band, got {self.num_modes}"
            )
        return self
