"""What tests of remote shards share: an HTTP server that can fail, and reading a few steps."""

import re
import threading
import time
from collections import Counter
from http.server import SimpleHTTPRequestHandler
from itertools import islice
from pathlib import Path
from typing import ClassVar

from data_pipeline.config import DataConfig, DatasetConfig, StorageConfig
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.loader import build_train_loader

FAST = StorageConfig(attempts=4, first_delay_s=0.01, timeout_s=5)


class Handler(SimpleHTTPRequestHandler):
    """Files with byte ranges; the first `failures` requests of each path fail."""

    failures = 0
    status = 503
    # paths that contain this fail for as long as it is set
    down = ""
    ranges = True
    delay_s = 0.0
    requests: ClassVar[Counter[str]]
    running: ClassVar[list[int]]
    lock = threading.Lock()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Note how many requests for shards run at the same time."""
        is_shard = self.path.endswith(".tar")
        with self.lock:
            self.running.append(self.running[-1] + is_shard)
        time.sleep(self.delay_s * is_shard)
        super().do_GET()
        with self.lock:
            self.running.append(self.running[-1] - is_shard)

    def send_head(self):  # type: ignore[no-untyped-def]
        self.requests[self.path] += 1
        if self.requests[self.path] <= self.failures or (self.down and self.down in self.path):
            self.send_error(self.status)
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.ranges:
            start, end = int(asked[1]), int(asked[2] or len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            data = data[start : end + 1]
        else:
            self.send_response(200)
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)
        return


def steps(path: str, tmp_path: Path, **changes: object) -> list[list[Batch]]:
    """Read a few steps of a dataset."""
    values = {
        "datasets": (DatasetConfig(path=path),),
        "sequence_length": 64,
        "num_workers": 2,
        "cache": str(tmp_path / "cache"),
        "storage": FAST,
        **changes,
    }
    loader = build_train_loader(
        DataConfig.model_validate(values),
        global_batch_size=8,
        micro_batch_size=8,
        data_rank=0,
        data_ranks=1,
    )
    return list(islice(loader, 12))


def assert_same(found: list[list[Batch]], expected: list[list[Batch]]) -> None:
    """Compare tokens."""
    for one, other in zip(found, expected, strict=True):
        assert [batch.tokens.tolist() for batch in one] == [
            batch.tokens.tolist() for batch in other
        ]
