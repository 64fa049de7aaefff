"""What happens to whole machines: clocks that jump, links that break."""

import itertools
import os
import struct
import subprocess
from pathlib import Path
from random import Random

from launch.torchrun import SECRET_FILE, write_secret
from tests.faults.trial import Trial

DAY_S = 86_400
# longest time that a link is down: the watchdog acts meanwhile, or does not
LAST_S = 25.0
HANG_S = 15
_NUMBERS = itertools.count(os.getpid() % 200 * 256)


def with_own_clock(trial: Trial, _random: Random) -> None:
    """Give the run a clock that can jump; it is preloaded, so the run starts from nothing."""
    library, source = trial.folder / "clock.so", Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    _set(trial, 0)
    trial.fresh = True
    trial.environment |= {"LD_PRELOAD": str(library), "RESONANCE_FAULTS_CLOCK": str(_clock(trial))}


def jump(trial: Trial, random: Random) -> bool:
    """Set the clock, forwards or back; the time since the start of the machine does not change."""
    if not trial.ranks():
        return False
    _set(trial, random.choice((1, 60, 3600, DAY_S, 30 * DAY_S)) * random.choice((1, -1)))
    return True


def _clock(trial: Trial) -> Path:
    return trial.folder / "clock"


def _set(trial: Trial, shift_s: int) -> None:
    with _clock(trial).open("r+b" if _clock(trial).exists() else "wb") as file:
        file.write(struct.pack("q", shift_s))


def with_two_hosts(trial: Trial, _random: Random) -> None:
    """Give the run two hosts that a cable joins: network namespaces."""
    number = next(_NUMBERS)
    subnet = f"10.{96 + number // 256 % 128}.{number % 256}"
    names = [f"rsf-{os.getpid()}-{number % 65536}{letter}" for letter in "ab"]
    for name in names:
        _ip(f"netns add {name}")
        trial.at_end(lambda name=name: _ip(f"netns del {name}"))  # type: ignore[misc]
    _ip(f"link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}")
    for last, name in enumerate(names, start=1):
        _ip(f"-n {name} addr add {subnet}.{last}/24 dev eth0")
        for device in ("lo", "eth0"):
            _ip(f"-n {name} link set {device} up")
        trial.hosts[name] = f"{subnet}.{last}"
    secret = trial.folder / "secret"
    write_secret(secret)
    trial.environment[SECRET_FILE] = str(secret)
    trial.options += ("--health.hang-timeout-s", str(HANG_S))


def cut_link(trial: Trial, random: Random) -> bool:
    """Cut the link for some time."""
    host = random.choice(list(trial.hosts))
    if trial.damaged or len(trial.ranks()) < trial.num_ranks:
        return False

    def mend() -> None:
        _ip(f"-n {host} link set eth0 up")
        trial.damaged = False

    trial.damaged = True
    _ip(f"-n {host} link set eth0 down")
    trial.later(random.uniform(0.5, LAST_S), mend)
    return True


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)
