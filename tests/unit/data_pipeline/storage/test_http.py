"""Shards and sources over HTTP, from a real server on loopback, with its failures."""

import logging
import re
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from data_pipeline.build.build import build
from data_pipeline.config import BuildConfig, DataConfig, DatasetConfig, VerifyConfig
from data_pipeline.errors import DataError, MissingFileError, UnavailableError
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.manifest import load_manifest
from data_pipeline.shards.verify import check_sizes, inspect
from data_pipeline.storage.files import exists, read_bytes
from data_pipeline.storage.listing import list_files
from data_pipeline.storage.streams import open_raw
from data_pipeline.stream.loader import build_train_loader
from tests.unit.data_pipeline.storage.remote import FAST, Handler, assert_same, steps


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


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_outage_is_not_a_missing_file(
    served: tuple[str, type[Handler], Path], status: int
) -> None:
    url, handler, _ = served
    handler.status, handler.down = status, "text.jsonl"
    for ask in (exists, list_files, read_bytes):
        handler.requests.clear()
        with pytest.raises(UnavailableError, match=rf"text\.jsonl: .*{status}.* after 4 attempts"):
            ask(f"{url}/text.jsonl", FAST)
        assert handler.requests["/text.jsonl"] >= 4
    with pytest.raises(UnavailableError), open_raw(f"{url}/text.jsonl", FAST):
        pass
    with pytest.raises(UnavailableError, match="Cannot connect"):
        exists("http://127.0.0.1:9/text.jsonl", FAST)
    # three requests of a path fail, which an opening makes two of
    handler.down, handler.failures = "", 3
    handler.requests.clear()
    with open_raw(f"{url}/text.jsonl", FAST) as stream:
        assert stream.read().count(b"\n") == 2


@pytest.mark.parametrize("status", [404, 410])
def test_a_file_that_is_gone_is_missing(
    served: tuple[str, type[Handler], Path], status: int
) -> None:
    url, handler, _ = served
    handler.status, handler.down = status, "text.jsonl"
    assert not exists(f"{url}/text.jsonl", FAST)
    for ask in (list_files, read_bytes):
        with pytest.raises(MissingFileError, match=r"text\.jsonl: no such file"):
            ask(f"{url}/text.jsonl", FAST)
    handler.status = 403
    with pytest.raises(DataError, match="403") as refused:
        read_bytes(f"{url}/text.jsonl", FAST)
    assert not isinstance(refused.value, MissingFileError | UnavailableError)


def test_a_shard_that_an_outage_masked_is_asked_for_again(
    served: tuple[str, type[Handler], Path], dataset: Path, tmp_path: Path
) -> None:
    url, handler, _ = served
    whole = steps(str(dataset / "train"), tmp_path, num_workers=0)
    storage = FAST.model_copy(update={"attempts": 2})
    handler.down = ".tar"
    with pytest.raises(UnavailableError, match=r"shard-\d+\.tar"):
        steps(f"{url}/train", tmp_path, num_workers=0, storage=storage)
    config = DataConfig(
        datasets=(DatasetConfig(path=f"{url}/train"),),
        sequence_length=64,
        num_workers=0,
        cache=str(tmp_path / "cache"),
        storage=storage,
        on_corrupt_shard="skip",
    )
    loader = build_train_loader(
        config, global_batch_size=8, micro_batch_size=8, data_rank=0, data_ranks=1
    )
    begun = iter(loader)
    next(begun)
    masked = dict(loader.corrupt)
    assert masked
    assert all("503" in reason for reason in masked)
    handler.down = ""
    time.sleep(2 * storage.first_delay_s * 2**storage.attempts)
    assert_same([next(begun) for _ in range(11)], whole[1:])
    assert loader.corrupt == masked


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
