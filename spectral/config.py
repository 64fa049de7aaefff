"""The `[model]` table of a run file: parts of a spectral language model (imports no torch)."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from spectral.config_table import Positive, Size, Table
from spectral.feed_forward.config import ExpertsConfig
from spectral.gates.config import GatesConfig
from spectral.gates.keys import GATE_PARTS
from spectral.layer_pattern import head_mixture
from spectral.modules.fft_config import FFTConfig
from spectral.modules.frame_length import chunk_tokens
from spectral.modules.wavelet_config import WaveletConfig
from spectral.upgrade import MOVED, has_moved


class ModelConfig(Table):
    """Architecture of a `SpectralLM`; no parameter depends on the sequence length.

    Raises:
        ValueError: An unknown key, a value out of range or sizes that do not fit together.
    """

    vocab_size: Size = Field(4096, description="Rows of the embedding.")
    dim: Size = Field(256, description="Channels of the residual stream.")
    num_layers: int = Field(
        6, ge=1, le=2**14, description="Blocks, each a mixer and a feed-forward."
    )
    num_heads: Size = Field(4, description="Heads of every mixer; they share dim equally.")
    conv_heads: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="Convolution heads of each layer of heads, repeated over the layers; the other "
        "heads are recall heads. '2' mixes both kinds in every layer of 4 heads; '4 0' alternates "
        "layers of one kind, which is also the default for any num_heads.",
    )
    mixers: tuple[Literal["heads", "fft", "wavelet"], ...] = Field(
        ("heads",),
        min_length=1,
        description="Mixer of each layer, repeated over the layers: convolution and recall heads, "
        "hierarchical FFT or wavelets.",
    )
    causal: bool = Field(
        True, description="Causal mixing, for language models; false gives an encoder."
    )
    classes: int = Field(
        0,
        ge=0,
        le=65_535,
        description="Classes of a head on pooled hidden states, for texts with labels; 0: logits "
        "of tokens.",
    )
    pooling: Literal["mean", "max", "cls"] = Field(
        "mean",
        description="Vector of a text, of its hidden states: mean, maximum per channel, or that of "
        "its first token (cls).",
    )
    multi_label: bool = Field(
        False, description="Whether a text may have any number of labels, each decided by itself."
    )
    source_layers: int = Field(
        0,
        ge=0,
        description="Bidirectional blocks that read the source of a pair, for text to text; 0: a "
        "model of single texts.",
    )
    source_bands: Size = Field(
        4, description="Bands in which a target reads its source; the first is content alone."
    )
    source_dim: Size = Field(16, description="Key channels of a head in each of these bands.")
    num_modes: Size = Field(16, description="Modes (damped sinusoids) of each channel's filter.")
    conv_chunk: Positive = Field(
        64,
        description="Tokens per FFT chunk of convolution heads. Affects speed only, except with "
        "gates.",
    )
    recall_chunk: Positive = Field(
        64, description="Tokens per chunk of recall heads. Affects speed only."
    )
    recall_rule: Literal["decay", "delta"] = Field(
        "decay",
        description="What a recall head does to its state before it writes: it lets it decay, or "
        "also erases what the key held (delta rule), which tracks state.",
    )
    recall_strength: float = Field(
        2.0,
        gt=0.0,
        le=2.0,
        description="Largest write strength of delta heads; above 1 a write can flip a state.",
    )
    recall_erase: Literal["head", "channel"] = Field(
        "head", description="Delta heads erase as strongly as they write, or by key channel."
    )
    recall_phase: Literal["static", "data"] = Field(
        "static",
        description="Rotation of recall heads' modes: by the position, or also by angles from each "
        "token.",
    )
    recall_bias: bool = Field(
        False, description="Learned bias on the directions of queries and keys of recall heads."
    )
    short_conv: Size = Field(4, description="Taps of the short convolution on q, k and v.")
    embedding: Literal["table", "harmonic"] = Field(
        "table", description="Free vectors, or sums of 16 sinusoids (48 numbers per token)."
    )
    feed_forward: Literal["gated", "frequency", "experts"] = Field(
        "gated",
        description="Gated linear unit, its blend with a filter over the features, or a mixture of "
        "experts.",
    )
    ffn_dim: Size = Field(
        688, description="Hidden channels of the feed-forward, or of every expert."
    )
    gates: GatesConfig = Field(GatesConfig(), description="Spectral gates.")
    fft: FFTConfig = Field(FFTConfig(), description="Hierarchical FFT mixer.")
    wavelet: WaveletConfig = Field(WaveletConfig(), description="Wavelet mixer.")
    experts: ExpertsConfig = Field(ExpertsConfig(), description="Mixture of experts.")
    max_time_constant: float = Field(
        204_800.0, ge=2.0, description="Longest initial time constant of modes, in tokens."
    )
    rotary_base: float = Field(10_000.0, gt=1.0, description="Base of the rotary frequencies.")
    norm_eps: float = Field(1e-6, gt=0.0, description="Epsilon of RMSNorm.")

    @model_validator(mode="before")
    @classmethod
    def _point_to_tables(cls, values: Any) -> Any:
        if isinstance(values, dict) and (moved := [k for k in values if has_moved(k, values)]):
            raise ValueError("; ".join(f"{key} is now {MOVED[key]}" for key in moved))
        return values

    @model_validator(mode="before")
    @classmethod
    def _look_up_wavelet(cls, values: Any) -> Any:
        mixers = values.get("mixers") if isinstance(values, dict) else None
        # what is no list is reported when the field is validated
        if not isinstance(mixers, list | tuple) or "wavelet" not in mixers:
            return values
        given = values.get("wavelet", {})
        try:
            table = WaveletConfig.model_validate(given)
        except ValidationError:
            # reported with its keys when the field is validated
            return values
        try:
            filled = table.with_bank()
        except ValueError as error:
            raise ValueError(f"wavelet.{error}") from error
        # the other keys are validated as they were given
        inner = {**given, "bank": filled.bank} if isinstance(given, dict) else filled
        return values | {"wavelet": inner}

    @model_validator(mode="after")
    def _sizes_fit(self) -> "ModelConfig":
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        if self.dim % self.num_heads:
            yield (
                f"dim must be a multiple of num_heads, got dim={self.dim}, "
                f"num_heads={self.num_heads}"
            )
        head_dim = self.dim // self.num_heads
        if max(head_mixture(self)) > self.num_heads:
            yield f"conv_heads must be at most num_heads={self.num_heads}, got {self.conv_heads}"
        if min(head_mixture(self)) < self.num_heads and head_dim % 2:
            yield (
                "recall heads rotate pairs of channels: dim / num_heads must be even, "
                f"got {head_dim}"
            )
        if self.causal and self.pooling == "cls":
            yield (
                "pooling 'cls' takes the first token, which reads the others only if causal is "
                "false; expected causal false, or pooling 'mean' or 'max'"
            )
        if self.source_layers and (self.classes or not self.causal):
            yield (
                f"source_layers is {self.source_layers} with causal {str(self.causal).lower()} and "
                f"classes {self.classes}; expected causal true, for the targets, and classes 0"
            )
        if self.multi_label and not self.classes:
            yield "multi_label is true with classes 0; expected the number of classes"
        gates = [part for part in GATE_PARTS if getattr(self.gates, part)]
        if set(self.mixers) == {"heads"} and max(head_mixture(self)) == 0 and gates:
            yield (
                "gates act on convolution heads: expected some in conv_heads, got "
                f"{self.conv_heads} and {[f'gates.{part}' for part in gates]}"
            )
        if self.gates.selection and self.num_modes < 3:
            yield (
                "num_modes must be at least 3 for gates.selection, which reads 12% to 45% of "
                f"them, got {self.num_modes}"
            )
        if self.gates.bands and self.num_modes < 4:
            yield f"num_modes must be at least 4 for gates.bands, got {self.num_modes}"

    @property
    def lookback(self) -> int:
        """Number of preceding tokens that a layer reads directly, not through carried states."""
        wavelets = self.wavelet.lookback if self.causal and "wavelet" in self.mixers else 0
        return max(self.short_conv - 1, 1, wavelets)

    def chunk_units(self) -> Iterator[tuple[str, int]]:
        """Key and length in tokens of each kind of chunk that a sequence span must hold whole."""
        if any(getattr(self.gates, part) for part in GATE_PARTS):
            yield "conv_chunk", self.conv_chunk
        if self.causal and "fft" in self.mixers:
            yield "fft.chunk", chunk_tokens(self.fft.chunk)
