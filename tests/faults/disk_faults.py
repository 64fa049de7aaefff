"""Disks that refuse: full ones, and folders that are read-only for a while."""

import os
import subprocess
from pathlib import Path
from random import Random

from tests.faults.trial import Trial

# what is left free: nothing, a record, less than a checkpoint, about one
ROOM_BYTES = (0, 8_192, 200_000, 600_000)
# longest time that a disk refuses
LAST_S = 3.0


def fill(trial: Trial, random: Random) -> bool:
    """Fill the run's disk; there is room again after some time."""
    ballast = trial.disk / "ballast"
    if ballast.exists() or not trial.ranks():
        return False
    status = os.statvfs(trial.disk)
    free = status.f_bavail * status.f_frsize
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - random.choice(ROOM_BYTES)))
    trial.later(random.uniform(0.3, LAST_S), ballast.unlink)
    return True


def forbid(trial: Trial, random: Random) -> bool:
    """Let a folder of the run refuse new files, also those of root, for some time."""
    names = ("", "checkpoints", "heartbeat")
    folders = [trial.output / name for name in names if (trial.output / name).is_dir()]
    folder = random.choice(folders)
    if not trial.ranks() or _attributes(folder, "+i").returncode:
        return False
    trial.later(random.uniform(0.3, LAST_S), lambda: _attributes(folder, "-i").check_returncode())
    return True


def _attributes(folder: Path, change: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["chattr", change, str(folder)], capture_output=True)
