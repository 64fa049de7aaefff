"""Model sizes by name (imports no torch): `preset = "small"` in the `[model]` table of a run file.

| name   | parameters | context |
| ------ | ---------- | ------- |
| tiny   | 63M        | 16,384  |
| small  | 428M       | 65,536  |
| base   | 1.0B       | 131,072 |
| medium | 3.3B       | 204,800 |
| large  | 9.7B       | 204,800 |
| xlarge | 21.6B      | 204,800 |

The context is the intended `data.sequence_length` of a size; it sets the longest initial time
constant of modes, and no parameter's shape.
"""

from typing import NamedTuple

from spectral.config import ModelConfig

VOCAB_SIZE = 32_768
# the shortest chunk of the lowest bound of an H100 (`python -m benchmarks.kernels`); CPUs, for
# which the default of `conv_chunk` is, want shorter ones
GPU_CHUNK = 512


class Preset(NamedTuple):
    """A model size.

    Attributes:
        model: Architecture.
        num_parameters: Nominal number of parameters, to within 5%.
        context_length: Intended number of tokens per window.
    """

    model: ModelConfig
    num_parameters: float
    context_length: int


def _preset(
    num_parameters: float, context_length: int, dim: int, head_dim: int, layers: int, ffn_dim: int
) -> Preset:
    num_heads = dim // head_dim
    model = ModelConfig(
        vocab_size=VOCAB_SIZE,
        dim=dim,
        num_layers=layers,
        num_heads=num_heads,
        ffn_dim=ffn_dim,
        conv_chunk=GPU_CHUNK,
        max_time_constant=float(context_length),
    )
    return Preset(model, num_parameters, context_length)


# all have a multiple of 8 heads, for up to 8 tensor ranks
PRESETS = {
    "tiny": _preset(63e6, 16_384, dim=512, head_dim=64, layers=12, ffn_dim=1_664),
    "small": _preset(428e6, 65_536, dim=1_280, head_dim=80, layers=18, ffn_dim=3_456),
    "base": _preset(1.0e9, 131_072, dim=1_792, head_dim=112, layers=22, ffn_dim=4_864),
    "medium": _preset(3.3e9, 204_800, dim=2_816, head_dim=88, layers=31, ffn_dim=7_552),
    "large": _preset(9.7e9, 204_800, dim=4_096, head_dim=128, layers=44, ffn_dim=11_008),
    "xlarge": _preset(21.6e9, 204_800, dim=5_376, head_dim=112, layers=57, ffn_dim=14_336),
}
