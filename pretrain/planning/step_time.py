"""The time of a step by part: a roofline for every operation, its link for every collective.

Nothing overlaps: neither collectives with operations nor copies with either. That is what eager
code does, except for the gathers of ZeRO 3, so real steps are rather faster.
"""

import math
from typing import NamedTuple

from pretrain.planning.devices import Device, Link
from pretrain.planning.records import Collective, OpCost
from pretrain.planning.rehearsal import Rehearsal

# parts of a step, in the order in which they are shown
COMPUTE, TRAFFIC, LAUNCHES = "matrix products", "memory traffic", "launches"


class Machines(NamedTuple):
    """The hardware of a run.

    Attributes:
        device: Every rank's device.
        link: Connection of the ranks of a machine.
        network: Connection of machines.
        per_node: Ranks of a machine.
    """

    device: Device
    link: Link
    network: Link
    per_node: int

    def link_of(self, ranks: tuple[int, ...]) -> tuple[str, Link]:
        """Name and figures of the slowest connection between ranks."""
        if len({rank // self.per_node for rank in ranks}) == 1:
            return "within machines", self.link
        return "between machines", self.network


def step_seconds(
    rehearsal: Rehearsal, machines: Machines, stages: int, passes: int
) -> dict[str, float]:
    """Seconds of a rank's step by part.

    Args:
        rehearsal: The rank's step.
        machines: The hardware.
        stages: Number of pipeline stages.
        passes: Micro-batches of a rank in a step.
    """
    seconds: dict[str, float] = {COMPUTE: 0.0, TRAFFIC: 0.0, LAUNCHES: 0.0}
    in_passes = 0.0
    for name, segment in rehearsal.segments.items():
        repeats = float(rehearsal.repeats[name])
        spent = 0.0
        for cost, number in segment.ops.items():
            part, time = op_seconds(cost, machines.device)
            overhead = machines.device.overhead_us * 1e-6
            seconds[part] += time * number * repeats
            seconds[LAUNCHES] += overhead * number * repeats
            spent += (time + overhead) * number * repeats
        for collective, number in segment.collectives.items():
            where, link = machines.link_of(collective.ranks)
            time = collective_seconds(collective, link) * number * repeats
            part = f"{collective.name} {where}"
            seconds[part] = seconds.get(part, 0.0) + time
            spent += time
        if "pass" in name:
            in_passes += spent
    if stages > 1:
        # every stage waits for the passes of the others before its first or after its last
        seconds["bubble"] = in_passes * (stages - 1) / passes
    return {part: time for part, time in seconds.items() if time}


def op_seconds(cost: OpCost, device: Device) -> tuple[str, float]:
    """The part that bounds an operation, and its seconds."""
    dtype = cost.dtype.removeprefix("torch.").replace("complex64", "float32")
    if cost.kind == "matrix":
        peak = device.tflops.get(dtype, min(device.tflops.values())) * device.efficiency
    else:
        peak = device.vector_tflops
    times = {
        COMPUTE: cost.flops / (peak * 1e12),
        TRAFFIC: cost.bytes / (device.memory_gb_s * 1e9 * device.memory_efficiency),
        LAUNCHES: device.launch_us * 1e-6,
    }
    part = max(times, key=lambda name: times[name])
    return part, times[part]


def collective_seconds(collective: Collective, link: Link) -> float:
    """Seconds of a collective by a ring, or by a tree where only its latency counts."""
    size, ranks = collective.bytes, len(collective.ranks)
    if ranks == 1:
        return 0.0
    hops = math.ceil(math.log2(ranks))
    if collective.name == "send":
        return link.seconds(size, 1)
    if collective.name.startswith("allreduce"):
        return link.seconds(2 * size * (ranks - 1) / ranks, 2 * hops)
    if collective.name.startswith("allgather"):
        return link.seconds(size * (ranks - 1), hops)
    if collective.name.startswith(("reduce_scatter", "alltoall")):
        return link.seconds(size * (ranks - 1) / ranks, hops)
    return link.seconds(size, hops)
