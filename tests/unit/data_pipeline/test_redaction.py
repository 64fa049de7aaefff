"""URLs are shown and kept without credentials, and one without them is not opened."""

import time

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.redaction import is_redacted, redact
from data_pipeline.storage.files import check_url, read_bytes

SECRET = "hunter2"
PRIVATE = {
    f"https://user:{SECRET}@host/x": "https://REDACTED@host/x",
    f"https://{SECRET}@host:8080/x@y": "https://REDACTED@host:8080/x@y",
    f"s3://key:{SECRET}@bucket/train": "s3://REDACTED@bucket/train",
    f"https://user:{SECRET}@{SECRET}@host/": "https://REDACTED@host/",
    f"https://user:a/{SECRET}@host/": "https://REDACTED@host/",
    f"simplecache::https://user:{SECRET}@host/x": "simplecache::https://REDACTED@host/x",
    f"https://host/x?X-Amz-Signature={SECRET}": "https://host/x?X-Amz-Signature=REDACTED",
    f"https://host/x?sv=1&sig={SECRET}%3D#top": "https://host/x?sv=REDACTED&sig=REDACTED#top",
    f"'https://host/x?token={SECRET}': no": "'https://host/x?token=REDACTED': no",
    f"pipe:curl -H 'Authorization: Bearer {SECRET}' https://h":
        "pipe:curl -H 'Authorization: Bearer REDACTED' https://h",
}  # fmt: skip
PUBLIC = [
    "https://host/train",
    "http://host:8080/a@b",
    "s3://bucket/year=2024/part-?.parquet",
    "s3://bucket/?/year=2024/x",
    "data/train",
    "user@host and user:password",
    "KEY=VALUE; expected a=b",
    "",
]


@pytest.mark.parametrize("text", PRIVATE)
def test_credentials_are_left_out(text: str) -> None:
    assert redact(text) == PRIVATE[text]
    assert redact(redact(text)) == PRIVATE[text]
    assert SECRET not in str(DataError(f"before {text}, after"))
    if not text.startswith(("'", "pipe:")):
        assert is_redacted(redact(text))
        with pytest.raises(DataError, match="was written without its credentials"):
            check_url(redact(text), StorageConfig())


@pytest.mark.parametrize("text", PUBLIC)
def test_other_text_stays(text: str) -> None:
    assert redact(text) == text
    assert not is_redacted(text)


def test_an_endpoint_without_its_credentials_is_named() -> None:
    storage = StorageConfig(endpoint_url="https://REDACTED@store", anonymous=True)
    with pytest.raises(DataError, match="https://REDACTED@store: was written without its cred"):
        read_bytes("s3://bucket/x", storage)


def test_long_text_takes_no_time() -> None:
    started = time.monotonic()
    for text in ("a" * 100_000, "https://" + "a:" * 50_000, "://" * 30_000, "://a:b" * 20_000):
        redact(text)
    assert time.monotonic() - started < 10
