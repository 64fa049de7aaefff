"""The `[model.fft]` table: the hierarchical FFT mixer (imports no torch)."""

from pydantic import Field

from spectral.config_table import Positive, Table


class FFTConfig(Table):
    """Hierarchical FFT; used by layers whose mixer is "fft"."""

    chunk: int = Field(
        0,
        ge=0,
        description="New tokens per frame; another value is another model. 0 chooses a quarter of "
        "the training sequences, as a power of two of at most 8,192; checkpoints keep the choice.",
    )
    direct: Positive = Field(
        16_384, description="Longest sequence that an encoder transforms as one frame."
    )
    overlap: float = Field(
        0.125, gt=0.0, le=0.5, description="Overlap of neighbouring frames, as a share of chunk."
    )
    fusion_dim: Positive = Field(
        4,
        description="Size of the queries and keys that weight earlier chunks, per head and band; "
        "the first number is constant, so 1 weights all chunks alike.",
    )
    bands: Positive = Field(
        4, description="Octave bands, coarse to fine, each with a learned scale and a query."
    )
