"""The heads of a layer, and how a spectral gate sees all of them.

On one device all heads are here. Tensor parallelism gives each rank some of them and another
subclass's object; gates look at the spectra of all heads, whose energies are a few numbers each.

Shape letters: R rows (batch times chunks), H heads, M modes.
"""

from torch import Tensor


class HeadGroup:
    """All heads."""

    def gather(self, energy_RHM: Tensor) -> Tensor:
        """The energies of all heads, from those of this device's."""
        return energy_RHM

    def own(self, gate_RHM: Tensor) -> Tensor:
        """This device's part of what was computed for all heads."""
        return gate_RHM

    def loss(self, value: Tensor) -> Tensor:
        """A loss that every device computes from all heads: it must count once."""
        return value


ALL_HEADS = HeadGroup()
