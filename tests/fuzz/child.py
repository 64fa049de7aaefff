"""A process that reads hostile files: it may be killed, and its memory has a limit."""

import os
import resource
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from data_pipeline.errors import DataError
from launch.errors import LaunchError
from pretrain.cli import USER_ERRORS
from pretrain.errors import RunError
from tests.processes import CONTEXT, enter

# address space that reading one file may take
MEMORY_BYTES = 1 << 30
TIMEOUT_S = 30.0

Read = Callable[[Path], object]


class Child:
    """A process that calls one function on many folders; another takes its place if it ends."""

    def __init__(self, read: Read, memory_bytes: int = MEMORY_BYTES):
        self._read, self._memory_bytes = read, memory_bytes
        self._process = None
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(
            target=_serve,
            args=(self._read, self._memory_bytes, theirs, dict(os.environ)),
            daemon=True,
        )
        self._process.start()
        theirs.close()
        assert self._pipe.recv() == "ready"

    def problem(self, folder: Path) -> str:
        """How reading a folder ended if not in success or in an error for users; else empty."""
        self._pipe.send(folder)
        try:
            if self._pipe.poll(TIMEOUT_S):
                return self._pipe.recv()
            problem = f"no answer after {TIMEOUT_S:.0f} s"
        except EOFError:
            self._process.join()
            problem = f"the process ended with {self._process.exitcode}"
        self.close()
        self._start()
        return problem

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(read: Read, memory_bytes: int, pipe: Connection, environment: dict[str, str]) -> None:
    enter(environment)
    # what the reading imports and creates once does not count
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send("ready")
    while True:
        try:
            folder = pipe.recv()
        except EOFError:
            return
        pipe.send(_outcome(read, folder))


def _outcome(read: Read, folder: Path) -> str:
    try:
        read(folder)
    except (DataError, LaunchError, RunError) as error:
        return "" if str(error).strip() else f"an empty {type(error).__name__}"
    except USER_ERRORS as error:
        # the command line prints it; it must name the file
        return "" if getattr(error, "filename", None) else traceback.format_exc()
    except BaseException:  # noqa: BLE001 (panics of libraries are no exceptions)
        return traceback.format_exc()
    return ""
