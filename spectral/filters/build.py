"""The filter of a mixer: modal, with gates if the configuration has any."""

from typing import Any

from spectral.config import ModelConfig
from spectral.filters.gated import GatedFilter
from spectral.filters.modal import ModalFilter
from spectral.gates.spectral_gate import uses_gates

# both have `forward(u_BDT, documents, state, layout)` and `step(u_BD, state, position, layout)`
CausalFilter = GatedFilter | ModalFilter
# `GatedState` or a tensor; only the filter that made it reads it
FilterState = Any


def build_filter(config: ModelConfig, num_heads: int, num_channels: int) -> CausalFilter:
    """A `GatedFilter` if the configuration has gates, else a `ModalFilter`."""
    if uses_gates(config.gates):
        return GatedFilter(config, num_heads, num_channels)
    return ModalFilter.from_config(config, num_channels)
