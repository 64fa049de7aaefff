"""Kinds of faults: each a record with its name, what it does and the surroundings that it needs."""

import os
import shutil
from collections.abc import Callable, Mapping
from random import Random
from typing import NamedTuple

from tests.faults import (
    disk_faults,
    file_faults,
    host_faults,
    number_faults,
    process_faults,
    store_faults,
)
from tests.faults.trial import Trial

ANY = (1, 2, 4)
SEVERAL = (2, 4)


class Kind(NamedTuple):
    """A kind of fault.

    Attributes:
        name: Its name in plans, records and docs/survival.md.
        does: What it does, in a few words, for the table there.
        strike: Does it to a run; whether there was something to strike.
        scene: The surroundings that it needs, see `tests.faults.scenes`.
        ranks: Numbers of ranks that it makes sense with.
        weight: How often it is drawn, relative to the others.
        needs: A program that it needs.
    """

    name: str
    does: str
    strike: Callable[[Trial, Random], bool]
    scene: str = "plain"
    ranks: tuple[int, ...] = ANY
    weight: float = 1.0
    needs: str = "mount"


_PROCESSES = (
    Kind("rank killed", "SIGKILL of a rank", process_faults.kill_rank),
    Kind("rank stopped", "SIGTERM of a rank", process_faults.stop_rank),
    Kind("launcher killed", "SIGKILL of the launcher alone", process_faults.kill_launcher),
    Kind("launcher stopped", "SIGTERM of the launcher", process_faults.stop_launcher),
    Kind("power lost", "SIGKILL of all processes at once", process_faults.kill_all),
    Kind("reader killed", "SIGKILL of a reader", process_faults.kill_reader, "readers"),
    Kind("reader stopped", "SIGTERM of a reader", process_faults.stop_reader, "readers"),
    Kind(
        "rank hangs",
        "SIGSTOP of a rank, until the watchdog acts",
        process_faults.hang_rank,
        "watched",
        SEVERAL,
        weight=0.4,
    ),
    Kind("second start", "the same command again, meanwhile", process_faults.start_again),
)
_DISKS = (
    Kind("disk full", "a full disk that gets room again; training continues", disk_faults.fill),
    Kind("disk full, stop", 'the same with `on_error = "stop"`', disk_faults.fill, "stopping"),
    Kind(
        "folder read-only",
        "a folder of the run that refuses files",
        disk_faults.forbid,
        needs="chattr",
    ),
)
_FILES = (
    Kind(
        "checkpoint flipped",
        "a flipped bit in the newest checkpoint, and power lost",
        file_faults.checkpoint(file_faults.flip),
    ),
    Kind(
        "checkpoint cut",
        "a file of it cut short, and power lost",
        file_faults.checkpoint(file_faults.cut),
    ),
    Kind(
        "checkpoint deleted",
        "a file of it deleted, and power lost",
        file_faults.checkpoint(file_faults.delete),
    ),
    Kind(
        "shard flipped", "a flipped bit in a file of the data", file_faults.shard(file_faults.flip)
    ),
    Kind("shard cut", "a file of the data cut short", file_faults.shard(file_faults.cut)),
    Kind("shard deleted", "a file of the data deleted", file_faults.shard(file_faults.delete)),
    Kind("shard emptied", "a shard emptied while it is read", file_faults.empty_shard),
    Kind(
        "shard masked",
        'a flipped bit in a shard, with `on_corrupt_shard = "skip"`',
        file_faults.shard(file_faults.flip, "*.tar"),
        "masking",
        weight=0.5,
    ),
)
_STORES = tuple(
    Kind(f"store {mode}", does, store_faults.fail(mode), "store")
    for mode, does in (
        ("503", "an HTTP store that answers 503"),
        ("late", "one that answers after its clients have given up"),
        ("half", "one that sends half of each file"),
    )
)
_NUMBERS = tuple(
    Kind(f"NaN, {response}", does, number_faults.appeared, f"NaN, {response}")
    for response, does in (
        ("stop", "a NaN in a gradient, once; the run stops"),
        ("skip", "a NaN in the gradient of a window, which is skipped"),
        ("rollback", "the same; the run rolls back"),
    )
)
_HOSTS = (
    Kind(
        "clock jumps",
        "a jump of the wall clock, by up to a month",
        host_faults.jump,
        "own clock",
        (1, 2),
        weight=0.5,
        needs="cc",
    ),
    Kind(
        "link lost",
        "the link between two hosts (network namespaces) down for a while",
        host_faults.cut_link,
        "two hosts",
        SEVERAL,
        weight=0.5,
        needs="ip",
    ),
)
_ALL = (*_PROCESSES, *_DISKS, *_FILES, *_STORES, *_NUMBERS, *_HOSTS)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _ALL}


def missing() -> dict[str, str]:
    """Kinds that this machine cannot do, and what it lacks; root is needed for all."""
    if os.geteuid() != 0:
        return dict.fromkeys(KINDS, "root")
    return {name: kind.needs for name, kind in KINDS.items() if shutil.which(kind.needs) is None}
