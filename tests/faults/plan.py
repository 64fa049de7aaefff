"""What happens to a run, drawn from a seed: its layout, its surroundings, its faults."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from tests.faults.kinds import KINDS, Kind
from tests.faults.scenes import SCENES
from tests.faults.trial import STEPS


class Layout(NamedTuple):
    """How a run is split over ranks.

    Attributes:
        ranks: Number of ranks.
        options: Further flags of `resonance pretrain`.
    """

    ranks: int
    options: tuple[str, ...] = ()


LAYOUTS: Mapping[str, Layout] = {
    "1": Layout(1),
    "2 data": Layout(2),
    "2 tensor": Layout(2, ("--parallel.tensor", "2")),
    "2 pipeline": Layout(2, ("--parallel.pipeline", "2")),
    "2 sequence": Layout(2, ("--parallel.sequence", "2")),
    "4 data, ZeRO-3": Layout(4, ("--parallel.zero-stage", "3")),
    "4 tensor and data": Layout(4, ("--parallel.tensor", "2")),
}


class Planned(NamedTuple):
    """A fault that is to come.

    Attributes:
        kind: Name of its kind.
        step: Strike when this step is done; 0 at once, as soon as the run has started again.
        delay_s: Seconds after that.
    """

    kind: str
    step: int
    delay_s: float


class Plan(NamedTuple):
    """What happens to one run.

    Attributes:
        seed: The number from which all else is drawn.
        layout: Name in `LAYOUTS`.
        scene: Name of the surroundings, see `tests.faults.scenes`.
        faults: In the order in which they strike.
    """

    seed: int
    layout: str
    scene: str
    faults: tuple[Planned, ...]

    @property
    def ranks(self) -> int:
        return LAYOUTS[self.layout].ranks


def plan_of(seed: int, kinds: Sequence[str] = tuple(KINDS)) -> Plan:
    """The plan of a seed; the same kinds and seed give the same plan."""
    random = Random(f"faults {seed}")
    first = _choose(random, [KINDS[name] for name in kinds])
    layouts = [name for name, layout in LAYOUTS.items() if layout.ranks in first.ranks]
    layout = random.choice(layouts)
    scene = SCENES[first.scene]
    fitting = [
        kind
        for kind in map(KINDS.__getitem__, kinds)
        if kind.scene in (first.scene, *scene.also) and LAYOUTS[layout].ranks in kind.ranks
    ]
    others = [_choose(random, fitting) for _ in range(scene.faults - 1)]
    drawn = random.sample([first, *others], scene.faults)
    steps = sorted(random.randrange(STEPS - 1) for _ in drawn)
    faults = []
    for kind, step in zip(drawn, steps, strict=True):
        at_once = random.random() < 0.25
        delay_s = random.uniform(0.0, 2.0 if at_once else 0.3)
        faults.append(Planned(kind.name, 0 if at_once else step, round(delay_s, 3)))
    return Plan(seed, layout, first.scene, tuple(faults))


def _choose(random: Random, kinds: Sequence[Kind]) -> Kind:
    return random.choices(kinds, [kind.weight for kind in kinds])[0]


def details(plan: Plan, number: int) -> Random:
    """The generator of a fault's details: which rank, which file, which bit."""
    return Random(f"fault {number} of {plan.seed}")
