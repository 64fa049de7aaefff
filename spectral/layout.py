"""The layers' access to other devices: one object, passed to the model once.

The defaults are for a single device. Parallelism sets a layout of other subclasses (`model.layout =
...`), which reaches the layers through their `SequenceContext`; their code does not depend on it.

Shape letters: R rows (batch times chunks, or tokens for experts), H heads, M modes, E experts,
D channels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from kernels.linear_cross_entropy.op import linear_cross_entropy
from spectral.sequence.span import WHOLE, Span

# (rows sorted by expert, number of rows of each expert) -> the experts' outputs
Compute = Callable[[Tensor, list[int]], Tensor]


class HeadGroup:
    """A layer's heads on this device: all of them.

    Gates read the spectra of all heads, whose energies are a few numbers each.
    """

    def gather(self, energy_RHM: Tensor) -> Tensor:
        """Energies of all heads, from those on this device."""
        return energy_RHM

    def local(self, gate_RHM: Tensor) -> Tensor:
        """This device's heads of a gate that was computed for all heads."""
        return gate_RHM

    def loss(self, value: Tensor) -> Tensor:
        """A loss that every device computes from all heads, scaled so that it counts once."""
        return value

    def share(self, values_D: Tensor) -> Tensor:
        """The heads or channels that this device works on, of those whose parameters it has."""
        return values_D


class Transposition:
    """Exchange of a span of all heads for all tokens of some heads, and back.

    For operators on whole sequences, whose states cannot be carried from span to span. On a single
    device a span is the sequence.
    """

    def whole(self, x_BTD: Tensor) -> Tensor:
        """All tokens of this device's share of the channels."""
        return x_BTD

    def part(self, y_BTD: Tensor) -> Tensor:
        """All channels of this device's span, from all tokens of its share."""
        return y_BTD

    def whole_ids(self, segment_ids_BT: Tensor) -> Tensor:
        """Document numbers of all tokens."""
        return segment_ids_BT

    def heads(self, group: HeadGroup) -> HeadGroup:
        """The heads of this device's share, whose group outside of the exchange is `group`."""
        return group


class ExpertDispatch:
    """Token dispatcher: rows to their experts and back; all experts are local."""

    def run(self, compute: Compute, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Outputs of the experts, in the order of the rows.

        Args:
            compute: Function of this device's experts.
            x_RD: Rows sorted by expert.
            counts_E: Number of rows of each expert.
        """
        return compute(x_RD, self.numbers(counts_E, len(x_RD)))

    def numbers(self, counts: Tensor, rows: int) -> Any:  # noqa: ARG002
        """Counts as nested lists on the host; a simulation has only `rows`, their sum."""
        return counts.tolist()


class LayerRng:
    """Random numbers of layers in training: the global random state as it is."""

    def start_layer(self, layer: int) -> None:
        """Prepare the random state for a block of this model, counted from 0."""


class Layout(NamedTuple):
    """The parts of a model's parallelism; the defaults are those of a single device.

    Attributes:
        span: Local part of each sequence, and the carry of states to the next part.
        heads: Local heads of each layer.
        transposition: Exchange of the span for whole sequences of some heads.
        experts: Dispatch of rows to experts.
        cross_entropy: (x_ND, table_VD, labels_N) -> summed loss in nats; for a z-loss, its weight
            is a fourth argument.
        rng: Random numbers of each layer.
    """

    span: Span = WHOLE
    heads: HeadGroup = HeadGroup()
    transposition: Transposition = Transposition()
    experts: ExpertDispatch = ExpertDispatch()
    cross_entropy: Callable[..., Tensor] = linear_cross_entropy
    rng: LayerRng = LayerRng()

    def whole(self) -> "Layout":
        """The layout of operators on whole sequences, between an exchange and the one back."""
        return self._replace(span=WHOLE, heads=self.transposition.heads(self.heads))


SINGLE_DEVICE = Layout()
