"""The best layouts of a run on a number of GPUs, and why the others lose."""

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pretrain.config import RunConfig
from pretrain.planning.candidates import Candidate, candidates
from pretrain.planning.figures import GIB, Figures, figures
from pretrain.planning.step_time import Machines

# layouts that are rehearsed, and seconds after which no further rehearsal begins
MOST, PATIENCE_S = 12, 75.0
# layouts that are rehearsed for the nearest one that fits
NEAREST = 4
# a rough figure below this share of the memory is worth a rehearsal
HOPE = 1.2


class Place(NamedTuple):
    """A layout's place in the ranking.

    Attributes:
        figures: Its figures.
        reason: Why it loses against the first; empty for the first.
    """

    figures: Figures
    reason: str


class Ranking(NamedTuple):
    """Outcome of a search.

    Attributes:
        places: Rehearsed layouts, the best first; those that do not fit last.
        possible: Number of possible layouts.
        too_big: Number of those that by a rough estimate exceed the memory by far.
    """

    places: list[Place]
    possible: int
    too_big: int


def search(run: RunConfig, gpus: int, machines: Machines) -> Ranking:
    """Rehearse the layouts that promise most."""
    every = candidates(run, gpus, machines)
    hopeful = [c for c in every if c.bytes < HOPE * _capacity(machines)]
    chosen = list(_varied(sorted(hopeful, key=lambda candidate: candidate.seconds)))[:MOST]
    results = _rehearsed(chosen, gpus, machines)
    ordered = sorted(results, key=lambda result: (not result.fits, result.step_s))
    places = [Place(result, _reason(result, ordered[0])) for result in ordered]
    return Ranking(places, len(every), len(every) - len(hopeful))


def nearest_that_fits(run: RunConfig, gpus: int, machines: Machines) -> Figures | None:
    """The layout that fits with the fewest changes, the fastest of those; None if none is found."""
    every = [c for c in candidates(run, gpus, machines) if c.bytes < 0.9 * _capacity(machines)]
    every.sort(key=lambda candidate: (len(candidate.changes), candidate.seconds))
    for candidate in every[:NEAREST]:
        result = figures(candidate.run, gpus, machines)
        if result.fits:
            return result
    return None


def changes(before: RunConfig, after: RunConfig) -> str:
    """The keys of a layout that another one changes, as they stand in a run file."""
    lines = []
    for table in ("parallel", "train"):
        old, new = (getattr(run, table).model_dump() for run in (before, after))
        for key, value in new.items():
            # the precision is only made explicit
            if value != old[key] and key != "precision":
                text = str(value).lower() if isinstance(value, bool) else repr(value)
                lines.append(f"{table}.{key} = {text}")
    return ", ".join(lines)


def _capacity(machines: Machines) -> float:
    return (machines.device.memory_gib - machines.device.reserved_gib) * GIB


def _varied(ordered: Iterable[Candidate]) -> Iterator[Candidate]:
    """The first of each kind: the same axes and ZeRO stage."""
    kinds = set()
    for candidate in ordered:
        parallel = candidate.run.parallel
        kind = parallel.tensor, parallel.pipeline, parallel.sequence, parallel.expert
        if (kind, parallel.zero_stage) not in kinds:
            kinds.add((kind, parallel.zero_stage))
            yield candidate


def _rehearsed(chosen: list[Candidate], gpus: int, machines: Machines) -> list[Figures]:
    end = time.monotonic() + PATIENCE_S

    def rehearse_in_time(candidate: Candidate) -> Figures | None:
        return figures(candidate.run, gpus, machines) if time.monotonic() < end else None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(rehearse_in_time, chosen)
        return [result for result in results if result is not None]


def _reason(result: Figures, best: Figures) -> str:
    """Why a layout loses against the best."""
    if not result.fits:
        part = max(result.memory, key=lambda name: result.memory[name])
        return (
            f"needs {result.bytes / GIB:.0f} of {result.capacity / GIB:.0f} GiB, "
            f"{result.memory[part] / GIB:.0f} of it {part}"
        )
    if result is best:
        return ""
    more = {part: seconds - best.seconds.get(part, 0.0) for part, seconds in result.seconds.items()}
    part = max(more, key=lambda name: more[name])
    slower = 100 * (result.step_s / best.step_s - 1)
    return f"{slower:.0f}% slower: {part} {more[part]:+.3g} s"
