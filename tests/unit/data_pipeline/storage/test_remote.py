"""Shards and sources over HTTP and S3, from real servers on loopback, with their failures."""

import functools
import json
import logging
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import ClassVar

import boto3
import pytest
from moto.server import ThreadedMotoServer

from data_pipeline.build.build import build
from data_pipeline.config import (
    BuildConfig,
    DataConfig,
    DatasetConfig,
    StorageConfig,
    VerifyConfig,
)
from data_pipeline.errors import DataError
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.manifest import load_manifest
from data_pipeline.shards.verify import check_sizes, inspect
from data_pipeline.storage.files import read_bytes
from data_pipeline.storage.streams import open_stream
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.loader import build_train_loader

FAST = StorageConfig(attempts=4, first_delay_s=0.01, timeout_s=5)


class Handler(SimpleHTTPRequestHandler):
    """Files with byte ranges; the first `failures` requests of each path fail."""

    failures = 0
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
        if self.requests[self.path] <= self.failures:
            self.send_error(503)
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


BUCKET = "corpus"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """An S3 server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> StorageConfig:
    """The dataset in a bucket, and how to reach it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    # No files of this user's, and no asking a cloud's metadata service.
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket=BUCKET)
    for path in dataset.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), BUCKET, f"data/{path.relative_to(dataset)}")
    client.put_object(Bucket=BUCKET, Key="text/a.jsonl", Body=b'{"text": "from a bucket"}\n')
    client.close()
    return FAST.model_copy(update={"endpoint_url": s3_endpoint})


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


@pytest.mark.parametrize("ranges", [True, False])
def test_training_reads_over_http(
    served: tuple[str, type[Handler], Path], dataset: Path, tmp_path: Path, ranges: bool
) -> None:
    url, handler, root = served
    handler.ranges = ranges
    expected = steps(str(dataset / "train"), tmp_path)
    assert_same(steps(f"{url}/train", tmp_path), expected)
    shards = {path: count for path, count in handler.requests.items() if path.endswith(".tar")}
    assert shards
    # The second time they come from the cache.
    before = Counter(handler.requests)
    assert_same(steps(f"{url}/train", tmp_path), expected)
    again = handler.requests - before
    assert not [path for path in again if path.endswith(".tar")]
    assert inspect(VerifyConfig(path=f"{url}/train", storage=FAST)).ok
    manifest = load_manifest(f"{url}/train", FAST)
    check_sizes(f"{url}/train", manifest, FAST)
    (root / "train" / manifest.shards[-1].name).unlink()
    with pytest.raises(DataError, match="no such file"):
        check_sizes(f"{url}/train", manifest, FAST)


def test_failed_requests_are_repeated(
    served: tuple[str, type[Handler], Path],
    dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, handler, _ = served
    handler.failures = 2
    waits: list[float] = []
    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr(time, "sleep", waits.append)
        found = steps(f"{url}/train", tmp_path, num_workers=0)
    assert_same(found, steps(str(dataset / "train"), tmp_path))
    # Twice as long before each further attempt; the server's own waits are 0.
    assert {wait for wait in waits if wait} == {0.01, 0.02}
    told = [record.message for record in caplog.records if "manifest.json" in record.message]
    assert [re.search(r"attempt \d", message)[0] for message in told] == ["attempt 2", "attempt 3"]
    handler.failures = 1_000_000
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read .*503.* after 4 attempts"):
        steps(f"{url}/train", tmp_path)


@pytest.mark.parametrize(("num_readers", "most"), [(1, 1), (3, 3)])
def test_shards_of_a_step_are_downloaded_side_by_side(
    served: tuple[str, type[Handler], Path], tmp_path: Path, num_readers: int, most: int
) -> None:
    url, handler, _ = served
    handler.delay_s = 0.05
    storage = FAST.model_copy(update={"num_readers": num_readers})
    steps(f"{url}/train", tmp_path, num_workers=0, storage=storage)
    assert max(handler.running) == most


def test_what_is_not_there_is_not_asked_for_again(
    served: tuple[str, type[Handler], Path], tmp_path: Path
) -> None:
    url, handler, _ = served
    with pytest.raises(DataError, match=r"gone/manifest\.json: no such file"):
        steps(f"{url}/gone", tmp_path)
    assert handler.requests["/gone/manifest.json"] == 1
    with pytest.raises(DataError, match="cannot be read"):
        steps("http://127.0.0.1:9/train", tmp_path)
    with pytest.raises(DataError, match="runs a command and is refused"):
        steps(f"pipe:touch {tmp_path}/ran", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_shard_damaged_on_the_server(
    served: tuple[str, type[Handler], Path], tmp_path: Path
) -> None:
    url, handler, root = served
    shard = root / "train" / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-600])
    with pytest.raises(DataError, match=r"shard-000001\.tar: \d+ bytes; expected \d+"):
        steps(f"{url}/train", tmp_path, num_workers=0)
    # It was downloaded once more, in case the copy was to blame.
    assert handler.requests["/train/shard-000001.tar"] >= 2


def test_a_damaged_copy_is_replaced(
    served: tuple[str, type[Handler], Path], dataset: Path, tmp_path: Path
) -> None:
    url, _, _ = served
    expected = steps(str(dataset / "train"), tmp_path)
    steps(f"{url}/train", tmp_path)
    for copy in (tmp_path / "cache").glob("*.tar"):
        data = bytearray(copy.read_bytes())
        data[700] ^= 255
        copy.write_bytes(data)
    assert_same(steps(f"{url}/train", tmp_path), expected)


def fetch_all(arguments: tuple[str, str, int]) -> None:
    """Fetch all shards from a process of its own."""
    url, folder, limit = arguments
    cache = ShardCache(Path(folder), limit, FAST)
    for entry in load_manifest(url, FAST).shards:
        assert cache.fetch(f"{url}/{entry.name}", entry).name == f"{entry.sha256}.tar"


def test_the_cache_is_shared_and_bounded(
    served: tuple[str, type[Handler], Path], tmp_path: Path
) -> None:
    url, handler, _ = served
    folder = tmp_path / "cache"
    url = f"{url}/train"
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(fetch_all, [(url, str(folder), 1 << 30)] * 3))
    shards = load_manifest(url, FAST).shards
    assert len(list(folder.glob("*.tar"))) == len(shards)
    assert {handler.requests[f"/train/{shard.name}"] for shard in shards} <= {1, 2}
    largest = max(shard.size for shard in shards)
    fetch_all((url, str(folder), 3 * largest))
    kept = {path.stem for path in folder.glob("*.tar")}
    assert sum(shard.size for shard in shards if shard.sha256 in kept) <= 3 * largest
    assert shards[-1].sha256 in kept
    assert shards[0].sha256 not in kept


def test_sources_over_http(served: tuple[str, type[Handler], Path], tmp_path: Path) -> None:
    url, handler, _ = served
    handler.failures = 1
    output = str(tmp_path / "built")
    config = BuildConfig(
        sources=(f"{url}/text.jsonl",), output=output, storage=FAST, valid_fraction=0
    )
    assert build(config).splits["train"].documents == 2


def test_training_reads_from_s3(bucket: StorageConfig, dataset: Path, tmp_path: Path) -> None:
    expected = steps(str(dataset / "train"), tmp_path)
    assert_same(steps("s3://corpus/data/train", tmp_path, storage=bucket), expected)
    check_sizes("s3://corpus/data/train", load_manifest("s3://corpus/data/train", bucket), bucket)
    report = inspect(VerifyConfig(path="s3://corpus/data", storage=bucket))
    assert report.ok
    assert report.samples == 60


def test_sources_from_s3(bucket: StorageConfig, tmp_path: Path) -> None:
    for number, source in enumerate(("s3://corpus/text", "s3://corpus/t*/*.jsonl")):
        output = str(tmp_path / str(number))
        config = BuildConfig(sources=(source,), output=output, storage=bucket, valid_fraction=0)
        assert build(config).splits["train"].documents == 1
    with open_stream("s3://corpus/text/a.jsonl", bucket) as stream:
        assert json.loads(stream.read()) == {"text": "from a bucket"}
    assert read_bytes("s3://corpus/text/a.jsonl", bucket, 2, 6) == b"text"


def test_s3_without_credentials(
    bucket: StorageConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    fresh = bucket.model_copy(update={"timeout_s": 4.0})
    with pytest.raises(DataError, match=r"train/manifest\.json: no S3 credentials"):
        steps("s3://corpus/data/train", tmp_path, storage=fresh)


def test_s3_that_answers_with_errors(
    bucket: StorageConfig, served: tuple[str, type[Handler], Path], tmp_path: Path
) -> None:
    url, handler, _ = served
    handler.failures = 1_000_000
    broken = bucket.model_copy(update={"endpoint_url": url})
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read .* after 4 attempts"):
        steps("s3://corpus/data/train", tmp_path, storage=broken)
    assert sum(handler.requests.values()) == 4
    with pytest.raises(DataError, match="no such file"):
        steps("s3://corpus/nothing", tmp_path, storage=bucket)
