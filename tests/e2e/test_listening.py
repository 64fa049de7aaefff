"""A run on one machine listens on loopback only, and no planted pickle of its stores runs."""

import base64
import os
import pickle
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch.distributed import TCPStore

from launch.torchrun import FAILURE_LOG
from tests.conftest import SmallCorpus
from tests.e2e.commands import COMMAND, ENVIRONMENT
from tests.e2e.runs import ROOT, Run

pytestmark = pytest.mark.system
LOOPBACK = ("127.0.0.1", "::1")


class Payload:
    """A pickle that leaves a folder where it is read."""

    def __init__(self, mark: Path):
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)


@pytest.fixture
def running(small_corpus: SmallCorpus, tmp_path: Path) -> Iterator[Run]:
    """A run of two ranks with a metrics endpoint, started as a user does."""
    run = Run(small_corpus, tmp_path, steps=100_000)
    text = run.file.read_text().replace("[launch]", '[launch]\nnetwork_interface = "eth0"')
    run.file.write_text(f"{text}\n[monitor]\nprometheus_port = {unused_port()}\n")
    with run.log.open("ab") as log:
        run.process = subprocess.Popen(
            [*COMMAND, "launch", "local", str(run.file)],
            env=ENVIRONMENT | {FAILURE_LOG: str(run.failures)},
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    yield run
    if run.process.poll() is None:
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()


def unused_port() -> int:
    """A port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def listening(run: Run) -> set[tuple[str, int]]:
    """The addresses and ports that the processes of a run listen on."""
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in run.processes()
        for connection in process.net_connections("inet")
        if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE) and connection.laddr
    }


def plant(port: int, value: str) -> bool:
    """Overwrite the state of a rendezvous, if a store has one; nothing about the job is known."""
    store = TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=10))
    states = [
        key for key in store.list_keys() if key.startswith("torch.rendezvous.") and "/" not in key
    ]
    for key in states:
        store.set(key, value)
    return bool(states)


def test_a_run_listens_on_loopback_and_unpickles_nothing_planted(
    running: Run, tmp_path: Path
) -> None:
    running.wait_until(lambda: running.step() >= 2)
    addresses = listening(running)
    # two stores, two connections between ranks at least, metrics
    assert len(addresses) >= 5, addresses
    assert {address for address, _ in addresses} <= {*LOOPBACK}, addresses
    commands = " ".join(" ".join(process.cmdline()) for process in running.processes())
    assert "--standalone" in commands
    environments = [process.environ() for process in running.processes()]
    (identity,) = {e["TORCHELASTIC_RUN_ID"] for e in environments if "TORCHELASTIC_RUN_ID" in e}
    assert identity.rpartition(".")[2] not in commands
    mark = tmp_path / "ran"
    value = base64.b64encode(pickle.dumps(Payload(mark))).decode()
    assert running.process is not None
    # the agent took the place of the command; both of its ports are stores
    connections = psutil.Process(running.process.pid).net_connections("inet")
    stores = [one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN]
    planted = [plant(port, value) for port in stores]
    assert any(planted), "no store was found to plant it in"
    deadline = time.monotonic() + 120
    while running.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not mark.exists()
    assert running.process.poll() == 1, running.printed()
    assert "was not written by this job; it was not read" in running.printed()
    assert "Traceback" not in running.printed()
    # its public part may be
    assert identity.rpartition(".")[2] not in running.printed()
