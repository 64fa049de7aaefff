"""Shards and sources in S3, from a real server on loopback, with its failures."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from data_pipeline.build.build import build
from data_pipeline.config import BuildConfig, StorageConfig, VerifyConfig
from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import load_manifest
from data_pipeline.shards.verify import check_sizes, inspect
from data_pipeline.storage.files import read_bytes
from data_pipeline.storage.streams import open_stream
from tests.unit.data_pipeline.storage.remote import FAST, Handler, assert_same, steps

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
