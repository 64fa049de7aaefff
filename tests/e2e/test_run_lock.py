"""Two trainers in one directory: one trains, the other is refused and changes nothing."""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SmallCorpus
from tests.e2e.commands import COMMAND, ENVIRONMENT, resonance
from tests.losses import losses

ENDLESS = 100_000
REFUSED = "another trainer writes there: process "


class Trainer:
    """A command that trains, with what it printed."""

    def __init__(self, log: Path, *arguments: object):
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                env=ENVIRONMENT,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def wait_until_it_trains(self, output: Path) -> None:
        deadline = time.monotonic() + 120
        while len(losses(output)) < 3:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        return self.process.wait(60)


@pytest.fixture
def trainers() -> Iterator[list[Trainer]]:
    started: list[Trainer] = []
    yield started
    for trainer in started:
        trainer.end(signal.SIGKILL)


def state(output: Path) -> dict[str, object]:
    """What a second trainer would change: the run's description, and where its records start."""
    metrics = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "run.toml": hashlib.sha256((output / "run.toml").read_bytes()).hexdigest(),
        "inode": (output / "metrics.jsonl").stat().st_ino,
        "records": metrics[:3],
        "lock": [file.name for file in (output / "lock").iterdir()],
    }


def endless_runs(corpus: SmallCorpus, folder: Path) -> tuple[Path, Path, Path]:
    """Two run files that differ in the seed, with the same directory; and the directory."""
    output = folder / "run"
    files = [
        corpus.run_file(
            folder / f"{seed}.toml",
            workers=0,
            steps=ENDLESS,
            output=str(output),
            seed=seed,
            validate_every=0,
        )
        for seed in (1, 2)
    ]
    return files[0], files[1], output


def test_of_two_trainers_at_once_one_trains_and_a_killed_one_starts_again_at_once(
    small_corpus: SmallCorpus, tmp_path: Path, trainers: list[Trainer]
) -> None:
    *files, output = endless_runs(small_corpus, tmp_path)
    for number, file in enumerate(files):
        trainers.append(Trainer(tmp_path / f"{number}.log", "pretrain", file))
    deadline = time.monotonic() + 120
    while not (ended := [each for each in trainers if each.process.poll() is not None]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (first,) = [each for each in trainers if each not in ended]
    assert ended[0].process.returncode == 1
    assert ended[0].log.read_text().count(REFUSED) == 1
    assert str(first.process.pid) in ended[0].log.read_text()
    first.wait_until_it_trains(output)
    steps = [record.step for record in losses(output)]
    assert steps == list(range(1, len(steps) + 1))

    # neither does a later one touch it, which would resume
    before = state(output)
    printed = resonance("pretrain", files[0], "--resume", status=1)
    assert REFUSED in printed
    assert state(output) == before

    first.end(signal.SIGKILL)
    again = Trainer(tmp_path / "again.log", "pretrain", files[0], "--auto-resume")
    trainers.append(again)
    while "resumed from" not in again.log.read_text():
        assert again.process.poll() is None, again.log.read_text()
        time.sleep(0.05)
    assert "waiting for" not in again.log.read_text()
    assert again.end(signal.SIGTERM) == os.EX_TEMPFAIL
    # what has left is out of the way of the next
    newest = max((output / "lock").glob("*.json"))
    assert newest.stat().st_mtime == 0
    assert json.loads(newest.read_text())["pid"] == again.process.pid


@pytest.mark.system
@pytest.mark.parametrize("order", [("launch local", "pretrain"), ("pretrain", "launch local")])
def test_a_launcher_and_a_trainer_exclude_each_other(
    small_corpus: SmallCorpus, tmp_path: Path, trainers: list[Trainer], order: tuple[str, str]
) -> None:
    *files, output = endless_runs(small_corpus, tmp_path)
    first = Trainer(tmp_path / "first.log", *order[0].split(), files[0])
    trainers.append(first)
    first.wait_until_it_trains(output)
    before = state(output)
    printed = resonance(*order[1].split(), files[1], "--resume", status=1)
    assert printed.count(REFUSED) == 1
    assert state(output) == before
    assert first.end(signal.SIGTERM) == os.EX_TEMPFAIL
