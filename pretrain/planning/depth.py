"""Deep stages from two shallow ones: equal blocks are rehearsed a few times, then multiplied.

Bytes, operations and collectives of a stage grow by the same amount with every period of its layer
pattern, so two depths give all others exactly. So does memory at the same moment of a step. The
fullest moment is one of the ends of a pass, or within its first or last block, so each half of a
phase is continued by itself, and the fullest of the results counts.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from pretrain.config import RunConfig
from pretrain.planning.memory import Peak
from pretrain.planning.records import Segment
from pretrain.planning.rehearsal import Rehearsal
from spectral.layer_pattern import layer_period

# in fewer blocks, the first is the last
FEWEST = 2


class Shallow(NamedTuple):
    """Two shallow stages that continue to a deep one.

    Attributes:
        runs: Runs with fewer layers.
        bounds: First block of each of their stages, and one past the last block.
        times: How often their difference is added to the first of them.
    """

    runs: tuple[RunConfig, RunConfig]
    bounds: tuple[list[int], list[int]]
    times: int


def shallow_stages(run: RunConfig, bounds: list[int], stage: int) -> Shallow | None:
    """Shallow stages for a deep one; None if rehearsing the stage itself is no more work.

    Args:
        run: The run.
        bounds: First block of each of its stages, and one past the last block.
        stage: The stage.
    """
    period = layer_period(run.model)
    if run.train.activation_checkpointing != "none":
        period = math.lcm(period, run.train.activation_checkpoint_every)
    first, depth = bounds[stage], bounds[stage + 1] - bounds[stage]
    small = period * -(-FEWEST // period) + depth % period
    depths = small, small + period
    if sum(depths) >= depth:
        return None
    # the stages before this one leave the pattern where it is
    begin = stage + (first - stage) % period
    places = [
        [
            0,
            *range(begin - stage + 1, begin + 1),
            *range(begin + each, begin + each + len(bounds) - stage - 1),
        ]
        for each in depths
    ]
    runs = [
        run.model_copy(update={"model": run.model.model_copy(update={"num_layers": place[-1]})})
        for place in places
    ]
    return Shallow((runs[0], runs[1]), (places[0], places[1]), (depth - small) // period)


def continued(first: Rehearsal, second: Rehearsal, times: int) -> Rehearsal:
    """The rehearsal of a stage that differs from the first `times` as much as the second does."""
    return Rehearsal(
        parameters=first.parameters + times * (second.parameters - first.parameters),
        segments={
            name: _segment(segment, second.segments[name], times)
            for name, segment in first.segments.items()
        },
        repeats=first.repeats,
        peaks=[_peak(*peaks, times) for peaks in zip(first.peaks, second.peaks, strict=True)],
        starts=[_peak(*peaks, times) for peaks in zip(first.starts, second.starts, strict=True)],
        message=first.message,
    )


def _segment(first: Segment, second: Segment, times: int) -> Segment:
    """A segment whose sums are continued: what only the first has counts negatively."""
    segment = Segment()
    for name in ("ops", "collectives"):
        before, after = getattr(first, name), getattr(second, name)
        numbers = {key: _number(before, after, key, times) for key in {*before, *after}}
        setattr(segment, name, Counter(numbers))
    segment.model_flops = first.model_flops + times * (second.model_flops - first.model_flops)
    return segment


def _peak(first: Peak, second: Peak, times: int) -> Peak:
    device, host = (
        {
            part: max(0, _number(before, after, part, times))
            for part in dict.fromkeys([*before, *after])
        }
        for before, after in ((first.device, second.device), (first.host, second.host))
    )
    return Peak(first.segment, device, host)


def _number(before: Mapping[Any, int], after: Mapping[Any, int], key: Any, times: int) -> int:
    value = before.get(key, 0)
    return value + times * (after.get(key, 0) - value)
