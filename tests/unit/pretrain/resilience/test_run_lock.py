"""One trainer per run directory: what is stale and what is not."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pretrain.errors import RunError
from pretrain.resilience import run_lock
from pretrain.resilience.run_lock import RunLock


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT_S": 0.05, "WATCH_S": 0.2, "PATIENCE_S": 0.1}.items():
        monkeypatch.setattr(run_lock, name, seconds)


def lock_of(directory: Path) -> RunLock:
    return RunLock(directory, patience_s=0.1)


def edit(directory: Path, **values: object) -> Path:
    """Change the fields of the newest lock; returns its file."""
    file = max((directory / "lock").glob("*.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return file


def abandoned(directory: Path) -> None:
    """Leave the lock of a process that was killed."""
    code = (
        "import os; from pathlib import Path; from pretrain.resilience.run_lock import RunLock;"
        f"RunLock(Path({str(directory)!r})).acquire(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9


def test_a_second_trainer_is_refused_until_the_first_has_left(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    with lock_of(run):
        files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(RunError, match=f"another trainer writes there: process {os.getpid()}"):
            lock_of(run).acquire()
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files
    with lock_of(run):
        assert [file.name for file in (run / "lock").iterdir()] == ["000002.json"]


def test_a_killed_process_leaves_no_lock_on_its_own_machine(tmp_path: Path) -> None:
    abandoned(tmp_path)
    begin = time.monotonic()
    lock_of(tmp_path).acquire()
    assert time.monotonic() - begin < run_lock.WATCH_S


def test_a_pid_that_comes_again_is_another_process(tmp_path: Path) -> None:
    abandoned(tmp_path)
    # this process runs, but it is not the one that took the lock
    edit(tmp_path, pid=os.getpid())
    lock_of(tmp_path).acquire()


@pytest.mark.parametrize("changed", [{"host": "another"}, {"kernel": "another"}, {"kernel": ""}])
def test_a_holder_that_beats_elsewhere_is_alive(tmp_path: Path, changed: dict[str, str]) -> None:
    with lock_of(tmp_path):
        # a pid without its kernel proves nothing, and neither does the name of a host
        edit(tmp_path, **{"pid": 2**22 + 1} | changed if "kernel" in changed else changed)
        with pytest.raises(RunError, match="another trainer"):
            lock_of(tmp_path).acquire()


def test_a_holder_elsewhere_is_gone_when_it_no_longer_beats(tmp_path: Path) -> None:
    abandoned(tmp_path)
    file = edit(tmp_path, kernel="another")
    an_hour_ago = time.time() - 3600
    os.utime(file, (an_hour_ago, an_hour_ago))
    begin = time.monotonic()
    lock_of(tmp_path).acquire()
    # it is watched all the same: its file system may have been away for an hour
    assert time.monotonic() - begin > run_lock.WATCH_S


def test_a_holder_elsewhere_that_was_silent_for_a_moment_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "STALE_S", 0.6)
    abandoned(tmp_path)
    os.utime(edit(tmp_path, kernel="another"))
    begin = time.monotonic()
    lock_of(tmp_path).acquire()
    assert time.monotonic() - begin > 0.5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_that_cannot_be_read_becomes_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(run_lock, "STALE_S", 0.4)
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "000007.json").write_text(content)
    with lock_of(tmp_path):
        assert [file.name for file in (tmp_path / "lock").iterdir()] == ["000008.json"]


def test_of_many_at_once_one_takes_over_a_stale_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned(tmp_path)
    take, judged = RunLock._take, threading.Barrier(8)

    def take_when_all_have_judged(self: RunLock, number: int) -> Path | None:
        if number == 2:
            judged.wait(30)
        return take(self, number)

    monkeypatch.setattr(RunLock, "_take", take_when_all_have_judged)

    def attempt(_number: int) -> bool:
        try:
            lock_of(tmp_path).acquire()
        except RunError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def test_a_number_that_others_have_used_since_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "000003.json").touch()
    assert lock_of(tmp_path)._take(2) is None
    assert [file.name for file in (tmp_path / "lock").iterdir()] == ["000003.json"]


def test_a_trainer_that_slept_ends_when_another_has_taken_over(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from pretrain.resilience import run_lock;"
        f"run_lock.BEAT_S = 0.1; run_lock.RunLock(Path({str(tmp_path)!r})).acquire();"
        "print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        file = max((tmp_path / "lock").glob("*.json"))
        # as another host would have made it
        file.with_name("000002.json").write_text(file.read_text())
        _, printed = process.communicate(timeout=30)
        assert process.returncode == os.EX_CONFIG
        assert "another trainer has taken over" in printed


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("a file")
    with pytest.raises(RunError, match=f"{tmp_path}/lock: the lock of the run cannot be taken"):
        lock_of(tmp_path).acquire()
