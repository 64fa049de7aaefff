"""Modal filters with or without gates behind one interface, and two-sided ones.

Shape letters: B batch, D channels, T time (tokens).
"""

from torch import Tensor, nn

from spectral.config import ModelConfig
from spectral.filters.gated import GatedFilter, GatedState
from spectral.filters.modal import ModalFilter
from spectral.gates.losses import GateLosses
from spectral.gates.spectral_gate import uses_gates
from spectral.sequence.documents import ChunkDocuments
from spectral.sequence.span import WHOLE, Span

FilterState = Tensor | GatedState


class CausalFilter(nn.Module):
    """A `GatedFilter` if the configuration has gates, else a `ModalFilter`."""

    def __init__(self, config: ModelConfig, num_heads: int, num_channels: int):
        super().__init__()
        self.inner: GatedFilter | ModalFilter
        if uses_gates(config):
            self.inner = GatedFilter(config, num_heads, num_channels)
        else:
            self.inner = ModalFilter(
                num_channels, config.num_modes, config.conv_chunk, config.max_time_constant
            )

    def reset_parameters(self) -> None:
        """Initialise from the global random state."""
        self.inner.reset_parameters()

    def forward(
        self,
        u_BDT: Tensor,
        documents: ChunkDocuments | None = None,
        state: FilterState | None = None,
        span: Span = WHOLE,
    ) -> tuple[Tensor, FilterState, GateLosses | None]:
        """Chunked form: (y_BDT, state after the sequence, losses of the gate)."""
        if isinstance(self.inner, GatedFilter):
            gated: tuple[Tensor, GatedState, GateLosses] = self.inner(u_BDT, documents, state, span)
            return gated
        y_BDT, end = self.inner(u_BDT, documents, state, span)
        return y_BDT, end.total(), None

    def step(self, u_BD: Tensor, state: FilterState, position: int) -> tuple[Tensor, FilterState]:
        """Recurrent form: one token."""
        if isinstance(self.inner, GatedFilter) and isinstance(state, GatedState):
            return self.inner.step(u_BD, state, position)
        if isinstance(self.inner, ModalFilter) and isinstance(state, Tensor):
            return self.inner.step(u_BD, state)
        raise TypeError(f"state: expected this filter's own, got {type(state).__name__}")
