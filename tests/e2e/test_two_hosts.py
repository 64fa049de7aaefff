"""Two hosts, as network namespaces joined by a cable: it is cut, one dies, one comes back."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launch.torchrun import OWN_STORES, REQUEUE_STATUS, SECRET_FILE, write_secret
from tests.conftest import SmallCorpus
from tests.e2e.commands import ENVIRONMENT
from tests.e2e.runs import LIMIT_S, ROOT, Run
from tests.losses import STEPS, Step, first_losses, trained

pytestmark = pytest.mark.system

HOSTS = {"resonance-a": "10.79.0.1", "resonance-b": "10.79.0.2"}
HANG_S = 40
Processes = list[subprocess.Popen[bytes]]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two namespaces with one rank's network each."""
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        pytest.skip("no iproute2 and util-linux: ip and nsenter make the hosts")
    first, second = HOSTS
    try:
        for name in HOSTS:
            _ip("netns", "add", name)
        _ip(*f"link add eth0 netns {first} type veth peer name eth0 netns {second}".split())
        for name, address in HOSTS.items():
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        for name in HOSTS:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        pytest.skip(f"no network namespaces: {error.stderr.decode().strip()}")
    yield list(HOSTS)
    for name in HOSTS:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _start(run: Run, host: str, num_hosts: str) -> subprocess.Popen[bytes]:
    """One rank on a host; hosts meet again after a failure."""
    secret = run.output.with_name("secret")
    if not secret.exists():
        write_secret(secret)
    with run.log.open("ab") as log:
        return subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{host}"),
                *(sys.executable, "-m", "pretrain.runtime.torchrun_agent"),
                *(f"--nnodes={num_hosts}", "--nproc-per-node=1", "--max-restarts=5"),
                *("--rdzv-backend=c10d", f"--rdzv-endpoint={HOSTS['resonance-a']}:29511"),
                *("--rdzv-id=two-hosts", f"--local-addr={HOSTS[host]}"),
                *("--rdzv-conf", f"is_host={host == 'resonance-a'},join_timeout=100"),
                *("--module", "pretrain.cli", "pretrain", str(run.file), "--auto-resume"),
                *("--health.hang-timeout-s", str(HANG_S), "--health.heartbeat-s", "0.1"),
            ],
            env=ENVIRONMENT
            | {"GLOO_SOCKET_IFNAME": "eth0", OWN_STORES: "1", SECRET_FILE: str(secret)},
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )


@contextmanager
def _training(
    run: Run, hosts: list[str], num_hosts: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A run on both hosts, past its first checkpoint; at the end nothing of it is left."""
    processes = [_start(run, host, num_hosts) for host in hosts]
    run.process = processes[0]
    try:
        run.wait_until(lambda: run.step() >= 4)
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()


def _kill(host: str, process: subprocess.Popen[bytes]) -> None:
    """Every process in its namespace; the one that was started there is among them."""
    listed = subprocess.run(["ip", "netns", "pids", host], check=True, capture_output=True)
    for pid in listed.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cut_link_is_noticed_and_the_run_finishes(
    hosts: list[str], small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    whole, run = (Run(small_corpus, tmp_path / name, steps=60) for name in ("whole", "cut"))
    whole.start()
    assert whole.end() == 0, whole.printed()
    with _training(run, hosts, "2") as processes:
        assert "no progress for" not in run.printed()
        _ip("-n", hosts[1], "link", "set", "eth0", "down")
        begin = time.monotonic()
        run.wait_until(lambda: "no progress for" in run.printed())
        assert time.monotonic() - begin < 2 * HANG_S
        assert run.step() < 60, "the cut came after the end and shows nothing"
        _ip("-n", hosts[1], "link", "set", "eth0", "up")
        assert [process.wait(LIMIT_S) for process in processes] == [0, 0], run.printed()
    assert run.losses() == whole.losses()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dead_host_is_done_without(
    hosts: list[str], small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[Step]
) -> None:
    run = Run(small_corpus, tmp_path)
    with _training(run, hosts, "1:2") as processes:
        _kill(hosts[1], processes[1])
        assert run.step() < STEPS, "the death came after the end and shows nothing"
        assert processes[0].wait(2 * LIMIT_S) == 0, run.printed()
    assert "1 ranks on cpu" in run.printed()
    found = run.losses()
    # one rank adds the same numbers up in another order
    assert first_losses(found) == pytest.approx(first_losses(undisturbed), rel=1e-5, abs=0)
    assert list(trained(found)) == list(trained(undisturbed))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_host_that_comes_back_is_taken_in(
    hosts: list[str], small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run = Run(small_corpus, tmp_path, steps=2000)
    with _training(run, hosts, "1:2") as processes:
        _kill(hosts[1], processes[1])
        run.wait_until(lambda: "1 ranks on cpu" in run.printed())
        processes[1] = _start(run, hosts[1], "1:2")
        run.wait_until(lambda: run.printed().count("2 ranks on cpu") == 2)
        resumed_at = run.step()
        run.wait_until(lambda: run.step() > resumed_at)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(LIMIT_S) for process in processes] == [REQUEUE_STATUS] * 2
    steps = list(trained(run.losses()))
    assert steps == list(range(1, len(steps) + 1))
