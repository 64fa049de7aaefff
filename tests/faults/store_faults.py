"""A store of shards, a real HTTP server, that refuses, is late or sends half."""

import functools
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from tests.faults import process_faults
from tests.faults.trial import Trial
from tests.unit.data_pipeline.storage.remote import Handler

TIMEOUT_S = 1.0
# longest time that the store fails
LAST_S = 5.0


def serve(trial: Trial, _random: Random) -> None:
    """Let the run read its data from a store."""

    class Store(_Store):
        requests: ClassVar[Counter[str]] = Counter()
        running: ClassVar[list[int]] = [0]

    folder = trial.corpus.folder / "data"
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Store, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    trial.at_end(server.server_close)
    trial.at_end(server.shutdown)
    trial.store = Store
    url: Any = f"http://127.0.0.1:{server.server_port}"
    trial.corpus.train, trial.corpus.valid = f"{url}/train", f"{url}/valid"
    trial.options += (
        *("--data.cache", str(trial.folder / "cache")),
        *("--data.storage.attempts", "3", "--data.storage.first-delay-s", "0.05"),
        *("--data.storage.timeout-s", str(TIMEOUT_S)),
    )


def fail(mode: str) -> Callable[[Trial, Random], bool]:
    """Let the store fail for some time; the run is started again without copies meanwhile."""

    def strike(trial: Trial, random: Random) -> bool:
        if trial.store.mode or not process_faults.kill_all(trial, random):
            return False
        trial.wait_for_processes()
        shutil.rmtree(trial.folder / "cache", ignore_errors=True)
        trial.store.mode = mode

        def mend() -> None:
            trial.store.mode = ""

        trial.later(random.uniform(0.5, LAST_S), mend)
        return True

    return strike


class _Store(Handler):
    """Files of a folder.

    Attributes:
        mode: How it fails at present; empty if it does not.
    """

    mode = ""

    def send_head(self):  # type: ignore[no-untyped-def]
        mode = type(self).mode
        if mode == "503":
            self.send_error(503)
            return
        if mode == "late":
            time.sleep(2 * TIMEOUT_S)
        if mode == "half" and self.command == "GET":
            self._send_half()
            return
        super().send_head()

    def _send_half(self) -> None:
        """Promise a whole file, send half of it and hang up."""
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True
