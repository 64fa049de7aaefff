"""Modal filters with or without gates behind one interface, and two-sided ones.

Shape letters: B batch, D channels, T time (tokens).
"""

from torch import Tensor, nn

from spectral.config import ModelConfig
from spectral.documents import ChunkDocuments
from spectral.gated_filter import GatedFilter, GatedState
from spectral.gating import GateLosses, mean_losses, uses_gates
from spectral.modes import ModalFilter
from spectral.span import WHOLE, Span

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


class TwoSidedFilter(nn.Module):
    """y = (filter of the past) + (another filter of the future), for bidirectional models."""

    def __init__(self, config: ModelConfig, num_heads: int, num_channels: int):
        super().__init__()
        self.past = CausalFilter(config, num_heads, num_channels)
        self.future = CausalFilter(config, num_heads, num_channels)

    def reset_parameters(self) -> None:
        """Initialise from the global random state."""
        self.past.reset_parameters()
        self.future.reset_parameters()

    def forward(self, u_BDT: Tensor) -> tuple[Tensor, GateLosses | None]:
        """Filter rows of one document each: (y_BDT, losses of the gates)."""
        y_BDT, _, losses = self.past(u_BDT)
        reverse_BDT, _, reverse_losses = self.future(u_BDT.flip(-1))
        both = mean_losses([(losses, 0.5), (reverse_losses, 0.5)])
        return y_BDT + reverse_BDT.flip(-1), both
