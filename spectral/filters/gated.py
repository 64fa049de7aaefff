"""A modal filter whose carried state is read through a spectral gate.

The gate reads the state at each chunk's beginning. Chunks begin every `chunk` tokens from the
beginning of the sequence, in every form.

Shape letters: B batch, D channel, T time (tokens), H head, M modes, K modes that are read, N rows
(batch times chunks).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kernels.spectral_gate.op import gate_spectrum
from spectral.config import ModelConfig
from spectral.filters.modal import FilterEnd, ModalFilter
from spectral.gates.losses import GateLosses
from spectral.gates.spectral_gate import SpectralGate
from spectral.layout import SINGLE_DEVICE, Layout
from spectral.sequence.documents import ChunkDocuments
from spectral.sequence.span import WHOLE


class GatedState(NamedTuple):
    """The two states of a gated filter: from the current chunk, and from before it.

    Attributes:
        local_BDM: State built up from zero since the chunk began.
        carried_BDM: State at the chunk's beginning, as it was; zero if a document began since.
        read_BDK: Gated carried state, decayed up to now: the selected modes only.
        modes_BHK: Indices of the selected modes.
    """

    local_BDM: Tensor
    carried_BDM: Tensor
    read_BDK: Tensor
    modes_BHK: Tensor


class GatedFilter(nn.Module):
    """`ModalFilter` with a `SpectralGate` between carried states and their read-out."""

    def __init__(self, config: ModelConfig, num_heads: int, num_channels: int):
        super().__init__()
        self.num_heads, self.chunk = num_heads, config.conv_chunk
        self.head_dim = num_channels // num_heads
        self.filter = ModalFilter.from_config(config, num_channels)
        self.gate = SpectralGate(config.gates, num_heads, config.num_modes)

    def reset_parameters(self) -> None:
        """Initialise the filter as usual and the gate as the identity."""
        self.filter.reset_parameters()
        self.gate.reset_parameters()

    def forward(
        self,
        u_BDT: Tensor,
        documents: ChunkDocuments | None = None,
        state: GatedState | None = None,
        layout: Layout = SINGLE_DEVICE,
    ) -> tuple[Tensor, GatedState, GateLosses]:
        """Chunked form, as `ModalFilter.forward`; a state must be one at a chunk's beginning.

        Returns:
            (y_BDT, state after the last token, losses of the gate).
        """
        losses = []

        def read(carried_NDM: Tensor) -> Tensor:
            gated_NDM, gate_losses = self._read(carried_NDM, u_BDT.shape[0], layout)
            losses.append(gate_losses)
            return gated_NDM

        total_BDM = None if state is None else self._total(state)
        y_BDT, end, _ = self.filter(u_BDT, documents, total_BDM, layout, read)
        return y_BDT, self._state(end, layout), losses[0]

    def step(
        self, u_BD: Tensor, state: GatedState, position: int, layout: Layout = SINGLE_DEVICE
    ) -> tuple[Tensor, GatedState]:
        """Recurrent form: one token, at `position` from the beginning of the sequence.

        Cost: O(B D (M + K)) per token, and the gate once per chunk.
        """
        if position % self.chunk == 0:
            total_BDM = self._total(state)
            state = self._state(
                FilterEnd(torch.zeros_like(total_BDM), total_BDM, torch.ones_like(total_BDM[0])),
                layout,
            )
        lambda_DM = self.filter.decay().to(state.local_BDM.dtype)
        local_BDM = state.local_BDM * lambda_DM + u_BD[..., None]
        residue_DM = self.filter.amplitudes()
        modes_BDK = self._by_channel(state.modes_BHK)
        read_BDK = state.read_BDK * _pick(lambda_DM, modes_BDK)
        y_BD = (residue_DM * local_BDM).sum(-1).real
        y_BD = y_BD + (_pick(residue_DM, modes_BDK) * read_BDK).sum(-1).real
        state = GatedState(local_BDM, state.carried_BDM, read_BDK, state.modes_BHK)
        return y_BD + self.filter.skip * u_BD, state

    def _read(
        self, carried_NDM: Tensor, batch: int, layout: Layout, *, noise: bool = True
    ) -> tuple[Tensor, GateLosses]:
        by_head_NHCM = carried_NDM.unflatten(1, (-1, self.head_dim))
        gate_NHM, losses = self.gate(by_head_NHCM, batch, layout, noise=noise)
        return gate_spectrum(by_head_NHCM, gate_NHM).flatten(1, 2), losses

    def _total(self, state: GatedState) -> Tensor:
        return state.local_BDM + self.filter.powers(self.chunk, 1)[..., 0] * state.carried_BDM

    def _state(self, end: FilterEnd, layout: Layout) -> GatedState:
        # one state per row, wherever the row's chunks are: nothing to sum over spans
        local = layout._replace(span=WHOLE)
        carried_BDM = end.carried_BDM
        read_BDM, _ = self._read(carried_BDM, carried_BDM.shape[0], local, noise=False)
        read_BDM = read_BDM * end.decay_DM
        num_read, selector = read_BDM.shape[-1], self.gate.selector
        if selector is not None:
            # the largest number of all heads: heads are stepped together
            num_read = int(selector.counts(num_read).max())
        # modes that the gate drops are zero in all channels of a head
        energy_BHM = read_BDM.abs().unflatten(1, (-1, self.head_dim)).sum(2)
        modes_BHK = energy_BHM.topk(num_read, dim=-1).indices
        read_BDK = read_BDM.gather(-1, self._by_channel(modes_BHK))
        return GatedState(end.local_BDM, end.carried_BDM, read_BDK, modes_BHK)

    def _by_channel(self, modes_BHK: Tensor) -> Tensor:
        return modes_BHK.repeat_interleave(self.head_dim, dim=1)


def _pick(table_DM: Tensor, modes_BDK: Tensor) -> Tensor:
    return table_DM.expand(modes_BDK.shape[0], -1, -1).gather(-1, modes_BDK)
