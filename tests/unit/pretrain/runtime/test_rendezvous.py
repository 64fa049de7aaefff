"""The state of the rendezvous is unpickled only if the job itself wrote it."""

import base64
import os
import pickle
import socket
import stat
from argparse import Namespace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousStateError
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    RendezvousBackend,
    RendezvousSettings,
    RendezvousTimeout,
    _BackendRendezvousStateHolder,
)

from launch.torchrun import OWN_STORES, SECRET_FILE, write_secret
from pretrain.runtime.rendezvous import (
    LOOPBACK,
    NAME,
    SignedBackend,
    _loopback_store,
    label_of,
    prepare,
)

SECRET = b"s" * 32
ID = "job.0123"


class Payload:
    """A pickle that leaves a file where it is read."""

    def __init__(self, mark: Path):
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)


@pytest.fixture
def stores() -> tuple[TCPStore, TCPStore]:
    """The store of a job, and the connection of somebody else to it."""
    store = _loopback_store(0)
    return store, TCPStore(LOOPBACK, store.port, is_master=False)


def holder(backend: RendezvousBackend) -> _BackendRendezvousStateHolder:
    """What torchrun's agent reads and writes the state with."""
    day = timedelta(days=1)
    settings = RendezvousSettings(ID, 1, 2, RendezvousTimeout(), day, 3)
    return _BackendRendezvousStateHolder(backend, settings, cache_duration=0)


def plant(store: TCPStore, data: bytes) -> None:
    """Write what torchrun will read, without knowing the job's id: a store lists its keys."""
    (key,) = [key for key in store.list_keys() if "torch.rendezvous." in key]
    store.set(key, base64.b64encode(data).decode())


@pytest.mark.parametrize("signed", [True, False])
def test_a_planted_pickle_runs_only_without_signature(
    stores: tuple[TCPStore, TCPStore], tmp_path: Path, signed: bool
) -> None:
    store, stranger = stores
    plain = C10dRendezvousBackend(store, ID)
    state = holder(SignedBackend(plain, SECRET) if signed else plain)
    state.mark_dirty()
    state.sync()
    pickled = pickle.dumps(Payload(tmp_path / "ran"))
    plant(stranger, pickled)
    if not signed:
        # what it left is no state
        with pytest.raises(AttributeError):
            state.sync()
        assert (tmp_path / "ran").exists(), "the attack does not work, and the test shows nothing"
        return
    for data in (pickled, bytes(32) + pickled, b"", b"short"):
        plant(stranger, data)
        with pytest.raises(RendezvousStateError, match="was not written by this job"):
            state.sync()
        state.mark_dirty()
        with pytest.raises(RendezvousStateError, match="was not written by this job"):
            state.sync()
    assert not (tmp_path / "ran").exists()


def test_machines_with_the_secret_share_a_state(stores: tuple[TCPStore, TCPStore]) -> None:
    one, two = (holder(SignedBackend(C10dRendezvousBackend(s, ID), SECRET)) for s in stores)
    one.sync()
    one.state.closed = True
    one.mark_dirty()
    assert one.sync()
    two.sync()
    assert two.state.closed
    # a change of a state that another machine has replaced is not written
    for machine, number in ((one, 5), (two, 7)):
        machine.state.round = number
        machine.mark_dirty()
    assert (one.sync(), two.sync(), two.state.round) == (True, False, 5)
    other = holder(SignedBackend(C10dRendezvousBackend(stores[1], ID), b"t" * 32))
    with pytest.raises(RendezvousStateError, match="different files RESONANCE_RENDEZVOUS_SECRET"):
        other.sync()


def options(**changes: Any) -> Namespace:
    """torchrun's options that the rendezvous reads."""
    defaults = {"nnodes": "1:1", "standalone": False, "rdzv_endpoint": "", "rdzv_id": "none",
                "rdzv_backend": "static", "local_addr": None}  # fmt: skip
    return Namespace(**{**defaults, **changes})


def test_one_machine_makes_its_own_secret_and_stays_on_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv(OWN_STORES, "1")
    ids = []
    for change in (
        {"standalone": True},
        {"rdzv_endpoint": "localhost:29500", "nnodes": "1"},
        {"rdzv_endpoint": "node1:29500", "nnodes": "1", "rdzv_backend": "c10d"},
    ):
        changed = options(**change)
        prepare(changed)
        port = 0 if changed.rdzv_endpoint.endswith(":0") else 29500
        assert changed.rdzv_endpoint == f"{LOOPBACK}:{port}"
        assert (changed.rdzv_backend, changed.local_addr, changed.standalone) == (
            NAME,
            LOOPBACK,
            False,
        )
        assert label_of(changed.rdzv_id) == "none"
        ids.append(changed.rdzv_id)
    assert len(set(ids)) == 3, "each start has another id"
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"
    assert OWN_STORES not in os.environ


def test_several_machines_share_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = {"rdzv_endpoint": "node1:29500", "nnodes": "1:2", "rdzv_id": "41.0"}
    monkeypatch.delenv(SECRET_FILE, raising=False)
    with pytest.raises(ValueError, match=f"{SECRET_FILE} is not set; expected the path"):
        prepare(options(**endpoint))
    path = tmp_path / "secret"
    monkeypatch.setenv(SECRET_FILE, str(path))
    with pytest.raises(ValueError, match=f"{path}: cannot be read"):
        prepare(options(**endpoint))
    path.write_text("short")
    with pytest.raises(ValueError, match="found 5 characters; expected at least 32"):
        prepare(options(**endpoint))
    write_secret(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ids = []
    for _ in range(2):
        monkeypatch.setenv(SECRET_FILE, str(path))
        changed = options(**endpoint)
        prepare(changed)
        assert changed.rdzv_endpoint == "node1:29500"
        # ranks do not inherit it
        assert SECRET_FILE not in os.environ
        ids.append(changed.rdzv_id)
    assert ids[0] == ids[1]
    assert label_of(ids[0]) == "41.0"
    assert path.read_text() not in ids[0]
    write_secret(path)
    monkeypatch.setenv(SECRET_FILE, str(path))
    changed = options(**endpoint)
    prepare(changed)
    assert changed.rdzv_id != ids[0]
    monkeypatch.setenv(SECRET_FILE, str(path))
    with pytest.raises(ValueError, match="--rdzv-endpoint is missing"):
        prepare(options(nnodes="2"))
    with pytest.raises(ValueError, match="--nnodes: expected N or MIN:MAX, found 'x'"):
        prepare(options(nnodes="x"))


def test_a_store_on_loopback_has_no_other_address() -> None:
    store = _loopback_store(0)
    listening = [
        connection.laddr
        for connection in psutil.Process().net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == store.port
    ]
    assert [address.ip for address in listening] == [LOOPBACK]
    with pytest.raises(RendezvousConnectionError, match=f"port {store.port} of {LOOPBACK} cannot"):
        _loopback_store(store.port)
    with socket.create_connection((LOOPBACK, store.port)):
        pass
