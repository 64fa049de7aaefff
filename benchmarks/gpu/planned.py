"""What the planner predicts of a run on one rank, to be compared with the measured figures."""

from typing import NamedTuple

from pretrain.config import RunConfig
from pretrain.planning.simulate import simulate


class Planned(NamedTuple):
    """The planner's figures of a step.

    Attributes:
        flops: Operations of the model, without recomputation.
        state_bytes: Parameters, gradients and optimizer state.
    """

    flops: int
    state_bytes: int


def planned(run: RunConfig) -> Planned:
    """The figures of a run on one rank; in a process without a process group."""
    simulation = simulate(run, 1)
    return Planned(simulation.flops, simulation.state_bytes)
