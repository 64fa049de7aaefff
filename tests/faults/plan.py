"""What happens to a run, drawn from a seed: its layout, its surroundings, its faults."""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from tests.faults.kinds import KINDS, Kind
from tests.faults.layouts import LAYOUTS
from tests.faults.scenes import SCENES
from tests.faults.trial import STEPS

# share of the faults that strike while the run starts
AT_ONCE = 0.25


class Planned(NamedTuple):
    """A fault that is to come.

    Attributes:
        kind: Name of its kind.
        step: Strike when this step is done; 0 as soon as the run has been started (again).
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
        scene: Name of the surroundings in `SCENES`.
        faults: In the order in which they strike.
    """

    seed: int
    layout: str
    scene: str
    faults: tuple[Planned, ...]

    @property
    def ranks(self) -> int:
        return LAYOUTS[self.layout].ranks

    def random(self, number: int) -> Random:
        """The generator of a fault's details: which rank, which file, which bit."""
        return Random(f"fault {number} of {self.seed}")


def plan_of(seed: int, kinds: Sequence[str] = tuple(KINDS)) -> Plan:
    """The plan of a seed; the same kinds and seed give the same plan."""
    random = Random(f"faults {seed}")
    first = _choose(random, kinds)
    scene = SCENES[first.scene]
    layout = random.choice([name for name in scene.layouts if LAYOUTS[name].ranks in first.ranks])
    others = [
        name
        for name in kinds
        if (KINDS[name].scene == first.scene and scene.repeats) or name in scene.also
    ]
    others = [name for name in others if LAYOUTS[layout].ranks in KINDS[name].ranks]
    num_others = scene.faults - 1 if others else 0
    drawn = [first.name, *(_choose(random, others).name for _ in range(num_others))]
    random.shuffle(drawn)
    steps = sorted(random.randrange(STEPS - 1) for _ in drawn)
    return Plan(
        seed,
        layout,
        first.scene,
        tuple(_planned(random, *pair) for pair in zip(drawn, steps, strict=True)),
    )


def _planned(random: Random, name: str, step: int) -> Planned:
    at_once = random.random() < AT_ONCE
    delay_s = random.uniform(0.0, 2.0 if at_once else 0.3)
    return Planned(name, 0 if at_once else step, round(delay_s, 3))


def _choose(random: Random, names: Sequence[str]) -> Kind:
    kinds = [KINDS[name] for name in names]
    return random.choices(kinds, [kind.weight for kind in kinds])[0]
