"""A dataset behind a real HTTP server on loopback."""

import functools
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.unit.data_pipeline.storage.remote import Handler


@pytest.fixture
def served(dataset: Path, tmp_path: Path) -> Iterator[tuple[str, type[Handler], Path]]:
    """A copy of the dataset behind HTTP: its URL, the handler to set failures on, the folder."""
    root = Path(shutil.copytree(dataset, tmp_path / "served"))
    (root / "text.jsonl").write_text('{"text": "first"}\n{"text": "second"}\n')

    class Own(Handler):
        requests: ClassVar[Counter[str]] = Counter()
        running: ClassVar[list[int]] = [0]

    handler = functools.partial(Own, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Own, root
        server.shutdown()
        thread.join()
