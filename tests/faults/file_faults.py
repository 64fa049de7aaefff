"""Files that are damaged on the disk: shards and checkpoints."""

from collections.abc import Callable
from pathlib import Path
from random import Random

from pretrain.checkpoint.catalog import list_checkpoints
from pretrain.checkpoint.manifest import verified
from pretrain.errors import CheckpointError
from tests.faults import process_faults
from tests.faults.trial import Trial

Damage = Callable[[Path, Random], None]
# longest time that a shard stays damaged
LAST_S = 4.0


def flip(file: Path, random: Random) -> None:
    """Flip a bit, in a new file under the old name: pages that are mapped stay as they were."""
    data = bytearray(file.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    _replace(file, bytes(data))


def cut(file: Path, random: Random) -> None:
    data = file.read_bytes()
    _replace(file, data[: random.randrange(len(data))])


def delete(file: Path, _random: Random) -> None:
    file.unlink()


def empty(file: Path, _random: Random) -> None:
    """Cut a file to nothing while it is open: reading its mapped pages is a bus error."""
    with file.open("r+b") as opened:
        opened.truncate()


def checkpoint(damage: Damage) -> Callable[[Trial, Random], bool]:
    """Damage the newest checkpoint if there is another sound one; then the power is lost."""

    def strike(trial: Trial, random: Random) -> bool:
        if len(_sound(trial)) < 2 or not process_faults.kill_all(trial, random):
            return False
        # what was being written or removed at that moment
        trial.wait_for_processes()
        sound = _sound(trial)
        if len(sound) < 2:
            return False
        files = sorted(path for path in sound[-1].rglob("*") if path.is_file())
        damage(random.choice([file for file in files if file.stat().st_size]), random)
        trial.damaged_checkpoints[sound[-1].stat().st_ino] = sound[-1]
        return True

    return strike


def shard(damage: Damage, pattern: str = "*.*") -> Callable[[Trial, Random], bool]:
    """Damage a file of the data set for some time, and start the run again meanwhile."""

    def strike(trial: Trial, random: Random) -> bool:
        file = random.choice(sorted((trial.corpus.folder / "data" / "train").glob(pattern)))
        if trial.damaged or not process_faults.kill_all(trial, random):
            return False
        _damage_for_a_while(trial, random, file, damage)
        return True

    return strike


def empty_shard(trial: Trial, random: Random) -> bool:
    """Cut a shard to nothing while it is read, for some time."""
    if trial.damaged or not trial.ranks():
        return False
    file = random.choice(sorted((trial.corpus.folder / "data" / "train").glob("*.tar")))
    _damage_for_a_while(trial, random, file, empty)
    return True


def _damage_for_a_while(trial: Trial, random: Random, file: Path, damage: Damage) -> None:
    data = file.read_bytes()

    def mend() -> None:
        file.write_bytes(data)
        trial.damaged = False

    trial.damaged = True
    damage(file, random)
    trial.later(random.uniform(0.5, LAST_S), mend)


def _sound(trial: Trial) -> list[Path]:
    return [path for path in list_checkpoints(trial.output) if _is_sound(path)]


def _is_sound(path: Path) -> bool:
    try:
        verified(path)
    except (CheckpointError, OSError):
        return False
    return True


def _replace(file: Path, data: bytes) -> None:
    new = file.with_name(f"{file.name}.new")
    new.write_bytes(data)
    new.rename(file)
