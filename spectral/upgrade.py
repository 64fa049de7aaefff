"""Present names of the model keys and parameters of version 0.1 (imports no torch)."""

from collections.abc import Mapping
from typing import Any

# key that was in [model] itself -> present key
MOVED = {
    "band_gates": "gates.bands",
    "soft_threshold": "gates.soft_threshold",
    "phase_functions": "gates.phase_functions",
    "cross_head": "gates.cross_head",
    "magnitude_mixing": "gates.magnitude_mixing",
    "gate_residual": "gates.residual",
    "bin_selection": "gates.selection",
    "selection_parts": "gates.selection_parts",
    "frequency_dropout": "gates.frequency_dropout",
    "entropy_weight": "gates.entropy_weight",
    "consistency_weight": "gates.consistency_weight",
    "fft_chunk": "fft.chunk",
    "fft_direct": "fft.direct",
    "fft_overlap": "fft.overlap",
    "fusion_dim": "fft.fusion_dim",
    "fft_bands": "fft.bands",
    "wavelet": "wavelet.family",
    "wavelet_levels": "wavelet.levels",
    "wavelet_bank": "wavelet.bank",
    "num_experts": "experts.count",
    "experts_per_token": "experts.per_token",
    "balance_weight": "experts.balance_weight",
    "router_z_weight": "experts.router_z_weight",
}


def parameter_name(saved: str) -> str:
    """Present name of a parameter, from the name that it was saved under."""
    # filters of wavelet mixers and of encoders were inside of another module
    return saved.replace(".inner.", ".")


def nested_keys(table: Mapping[str, Any]) -> dict[str, Any]:
    """A `[model]` table of this version, from one of version 0.1."""
    nested: dict[str, Any] = {}
    for key, value in table.items():
        if not has_moved(key, table):
            nested[key] = value
            continue
        name, inner = MOVED[key].split(".")
        inside = nested.get(name, {})
        # a table that is none is reported when it is validated
        nested[name] = inside | {inner: value} if isinstance(inside, dict) else inside
    return nested


def has_moved(key: str, table: Mapping[str, Any]) -> bool:
    """Whether a key of a `[model]` table is one of version 0.1 that has moved."""
    # `wavelet` was the family's name, and is a table
    return key in MOVED and not (key == "wavelet" and not isinstance(table[key], str))
