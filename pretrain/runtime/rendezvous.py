"""Rendezvous of the agents of a job: torchrun's, with a signed state, on one machine on loopback.

Torchrun's agents keep a pickled state in a store that everybody who reaches its port may list, read
and write. So here the state begins with an HMAC under a secret of the job, compared before anything
is unpickled. A store of one machine also listens on no other address than loopback.
"""

import hashlib
import hmac
import logging
import os
import secrets
import socket
from argparse import Namespace
from pathlib import Path
from typing import Any

# torch exports these names without declaring it
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousParameters,
    RendezvousStateError,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import (
    C10dRendezvousBackend,
    create_backend,
)
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    DynamicRendezvousHandler,
    RendezvousBackend,
    Token,
    create_handler,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.run import parse_min_max_nnodes

from launch.torchrun import OWN_STORES, SECRET_FILE

NAME = "resonance"
LOOPBACK = "127.0.0.1"
SHORTEST_SECRET = 32
_TAG_BYTES = hashlib.sha256().digest_size


class SignedBackend(RendezvousBackend):
    """A rendezvous backend whose state is written and read with an HMAC.

    Args:
        backend: Backend that keeps the signed state.
        secret: Secret of the job.
    """

    def __init__(self, backend: RendezvousBackend, secret: bytes):
        self._backend, self._secret = backend, secret

    @property
    def name(self) -> str:
        """Name of the backend in torchrun's registry."""
        return NAME

    def get_state(self) -> tuple[bytes, Token] | None:
        """The state and its token; None if there is none.

        Raises:
            RendezvousStateError: The state has no valid signature.
        """
        answer = self._backend.get_state()
        return None if answer is None else (self._opened(answer[0]), answer[1])

    def set_state(
        self, state: bytes, token: Token | None = None
    ) -> tuple[bytes, Token, bool] | None:
        """Replace the state if it still has the token.

        Returns:
            The state that is now stored, its token, and whether it is the one given; None if there
            is none.

        Raises:
            RendezvousStateError: The state has no valid signature.
        """
        answer = self._backend.set_state(self._tag(state) + state, token)
        return None if answer is None else (self._opened(answer[0]), *answer[1:])

    def _tag(self, state: bytes) -> bytes:
        return hmac.digest(self._secret, b"state of the rendezvous\0" + state, "sha256")

    def _opened(self, signed: bytes) -> bytes:
        tag, state = signed[:_TAG_BYTES], signed[_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(state)):
            raise RendezvousStateError(
                "the state of the rendezvous was not written by this job; it was not read. Either "
                f"its machines have different files {SECRET_FILE}, or somebody else reaches the "
                "rendezvous port (docs/security.md)"
            )
        return state


class _LoopbackHandler(DynamicRendezvousHandler):
    """torchrun's handler, whose store for the ranks listens on loopback."""

    def _create_tcp_store_server(self, _: str, master_port: int) -> TCPStore:
        return _loopback_store(master_port)


def prepare(options: Namespace) -> None:
    """Change torchrun's options, so that its agent meets the others by a signed state.

    The secret is removed from the environment, so that ranks do not inherit it.

    Raises:
        ValueError: The job has several machines, and no secret or no endpoint; or the number of
            machines is wrong.
    """
    alone = options.standalone or _machines(options.nnodes) == 1
    secret = secrets.token_bytes(SHORTEST_SECRET) if alone else _read_secret()
    os.environ.pop(SECRET_FILE, None)
    if alone:
        _stay_on_loopback(options)
    elif not options.rdzv_endpoint:
        raise ValueError("--rdzv-endpoint is missing; expected HOST:PORT of the first machine")
    # nobody can compute the keys of a job without its secret
    digest = hmac.digest(secret, b"id of the rendezvous\0" + options.rdzv_id.encode(), "sha256")
    _keep_out_of_logs(digest.hex()[:32])
    options.rdzv_id = f"{options.rdzv_id}.{digest.hex()[:32]}"
    options.rdzv_backend = NAME

    def create(params: RendezvousParameters) -> DynamicRendezvousHandler:
        return _create(params, secret, on_loopback=alone)

    # not `register`, which refuses another function: an agent in the same process has its own
    rendezvous_handler_registry._registry[NAME] = create


def _machines(nnodes: str) -> int:
    try:
        return int(parse_min_max_nnodes(nnodes)[1])
    except (ValueError, RuntimeError):
        raise ValueError(f"--nnodes: expected N or MIN:MAX, found {nnodes!r}") from None


def _stay_on_loopback(options: Namespace) -> None:
    """Let the agent, its stores and the ranks' libraries listen on loopback only."""
    endpoint = None if options.standalone else options.rdzv_endpoint
    _, port = parse_rendezvous_endpoint(endpoint or None, default_port=0)
    options.standalone, options.nnodes, options.local_addr = False, "1", LOOPBACK
    options.rdzv_endpoint = f"{LOOPBACK}:{port}"
    for library in ("GLOO", "NCCL"):
        os.environ[f"{library}_SOCKET_IFNAME"] = _loopback_interface()
    # otherwise rank 0 would make the store of the ranks, on every address
    os.environ.pop(OWN_STORES, None)


def _keep_out_of_logs(private: str) -> None:
    """Remove the private part of the id from torchrun's warnings."""

    def shorten(record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage().replace(f".{private}", ""), ()
        return True

    logging.getLogger(DynamicRendezvousHandler.__module__).addFilter(shorten)


def label_of(run_id: str) -> str:
    """The public part of a rendezvous id, for logs."""
    return run_id.rpartition(".")[0]


def _create(
    params: RendezvousParameters, secret: bytes, *, on_loopback: bool
) -> DynamicRendezvousHandler:
    store: Any
    if not on_loopback:
        backend, store = create_backend(params)
        return create_handler(store, SignedBackend(backend, secret), params)
    _, port = parse_rendezvous_endpoint(params.endpoint, default_port=0)
    store = _loopback_store(port)
    signed = SignedBackend(C10dRendezvousBackend(store, params.run_id), secret)
    handler: DynamicRendezvousHandler = _LoopbackHandler.from_backend(
        params.run_id, store, signed, params.min_nodes, params.max_nodes, params.local_addr
    )
    return handler


def _loopback_store(port: int) -> TCPStore:
    """A store whose server listens on loopback; torch's own would listen on every address.

    Raises:
        RendezvousConnectionError: The port is taken.
    """
    try:
        listener = socket.create_server((LOOPBACK, port), backlog=socket.SOMAXCONN)
    except OSError as error:
        raise RendezvousConnectionError(
            f"port {port} of {LOOPBACK} cannot be listened on: {error}; expected a free one "
            "(launch.port), or 0"
        ) from error
    number = listener.getsockname()[1]
    return TCPStore(LOOPBACK, number, is_master=True, master_listen_fd=listener.detach())


def _loopback_interface() -> str:
    """Name of the loopback interface: lo, or lo0."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), "lo")


def _read_secret() -> bytes:
    path = os.environ.get(SECRET_FILE)
    if not path:
        raise ValueError(
            f"{SECRET_FILE} is not set; expected the path of a file with a secret of at least "
            f"{SHORTEST_SECRET} characters, the same on every machine of the job and readable by "
            "its user only (resonance launch makes one)"
        )
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise ValueError(f"{SECRET_FILE}: {path}: cannot be read: {error}") from error
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(
            f"{SECRET_FILE}: {path}: found {len(secret)} characters; expected at least "
            f"{SHORTEST_SECRET}"
        )
    return secret
