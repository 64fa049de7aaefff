"""Bad input stops a build with one clear message, or is skipped and counted."""

import gzip
import json
import lzma
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from data_pipeline.build.build import build
from data_pipeline.build.report import BuildReport
from data_pipeline.config import BuildConfig, ReadConfig
from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import load_manifest

GOOD = {"text": "a good document"}


def build_with(folder: Path, policy: str) -> BuildReport:
    """Build all of a folder's files."""
    return build(
        BuildConfig(
            # not the output, which has no dot
            sources=(f"{folder}/*.*",),
            output=str(folder / "out"),
            valid_fraction=0,
            read=ReadConfig.model_validate({"on_bad_input": policy}),
        )
    )


def write_cases() -> dict[str, tuple[str, bytes, str, str]]:
    """Return by name: file name, content, part of the message, reason in the counts."""
    good = json.dumps(GOOD).encode() + b"\n"
    half = "half a surrogate \\ud800"
    long = b"".join(b'{"text": "%d"}\n' % number for number in range(3000))
    table = pa.table({"body": ["a"], "n": [1]})
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    no_column = sink.getvalue().to_pybytes()
    zst = zstandard.ZstdCompressor().compress(long)
    return {
        "broken JSON": ("a.jsonl", good + b'{"text": \n', "line 2: broken JSON", "broken JSON"),
        "deep JSON": ("a.jsonl", good + b"[" * 5000 + b"\n", "line 2: broken JSON", "broken JSON"),
        "no key": ("a.jsonl", good + b'{"body": "x"}\n', r"'text' is NoneType", "no text"),
        "not an object": ("a.jsonl", good + b"[1]\n", "line 2: a list", "no text"),
        "not a string": ("a.jsonl", good + b'{"text": 3}\n', "'text' is int", "no text"),
        "surrogate": ("a.jsonl", good + f'{{"text": "{half}"}}'.encode(), "valid Unicode",
                      "invalid UTF-8"),
        "bytes in JSON": ("a.jsonl", good + b'{"text": "\xff"}\n',
                          f"line 2: byte 0xFF at offset {len(good) + 10}", "invalid UTF-8"),
        "bytes in text": ("a.txt", b"abc\xe9def", "byte 0xE9 at offset 3", "invalid UTF-8"),
        "no column": ("a.parquet", no_column, r"no column 'text'; the columns are \['body', 'n'\]",
                      "no text"),
        "not Parquet": ("a.parquet", b"PAR1 or not", "not a Parquet file", "damaged file"),
        "gz cut short": ("a.jsonl.gz", gzip.compress(long)[:-20], "cannot be decompressed",
                         "damaged file"),
        "xz cut short": ("a.jsonl.xz", lzma.compress(long)[:-20], "cannot be decompressed",
                         "damaged file"),
        "zst cut short": ("a.jsonl.zst", zst[:-20], "cannot be decompressed", "damaged file"),
        "not gz": ("a.jsonl.gz", good, "cannot be decompressed", "damaged file"),
    }  # fmt: skip


@pytest.mark.parametrize("case", write_cases())
def test_bad_input_stops_or_is_counted(tmp_path: Path, case: str) -> None:
    name, content, message, reason = write_cases()[case]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.jsonl").write_text(json.dumps({"text": "another good document"}))
    with pytest.raises(DataError, match=message) as caught:
        build_with(tmp_path, "fail")
    assert str(tmp_path / name) in str(caught.value)
    assert not (tmp_path / "out" / "report.json").exists()
    subprocess.run(["rm", "-r", tmp_path / "out"], check=True)
    report = build_with(tmp_path, "skip")
    assert report.cleaning["bad_input"] == {reason: 1}
    assert str(tmp_path / name) in report.cleaning["examples"][reason][0]
    assert f"skipped as bad input: {reason}: 1" in str(report)
    assert report.splits["train"].documents >= 1


def test_an_empty_file_is_an_error_when_named_and_counted_when_found(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "good.txt").write_text("text")
    named = BuildConfig(sources=(f"{tmp_path}/empty.txt",), output=str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"empty\.txt: the file is empty; expected text"):
        build(named)
    report = build_with(tmp_path, "fail")
    assert report.cleaning["dropped"] == {"empty": 1}


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": " "}\n{"text": ""}\n')
    with pytest.raises(DataError, match=r"none of 2 documents is left .*'empty': 2"):
        build_with(tmp_path, "fail")


def test_a_document_of_50_megabytes(tmp_path: Path) -> None:
    line = "a line of a very long document, number {}\n"
    text = "".join(line.format(number) for number in range(1_100_000))
    assert len(text) > 50e6
    (tmp_path / "long.txt").write_text(text)
    report = build_with(tmp_path, "fail")
    assert report.documents_read == 1
    assert report.splits["train"].tokens == len(text) + 2
    assert load_manifest(str(tmp_path / "out" / "train")).shards[0].samples == 1


FULL_DISK = """
import resource, signal, sys
from data_pipeline.build.build import build
from data_pipeline.config import BuildConfig
from data_pipeline.errors import DataError
# A limit on the size of files stops writes as a full disk does, without needing a small disk.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    build(BuildConfig(sources=(sys.argv[1],), output=sys.argv[2], num_processes=int(sys.argv[4])))
except DataError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("limit", [1_000, 40_000])
def test_a_full_disk(tmp_path: Path, corpus: Path, limit: int, num_processes: int) -> None:
    output = tmp_path / "out"
    arguments = [str(corpus), str(output), str(limit), str(num_processes)]
    command = [sys.executable, "-c", FULL_DISK, *arguments]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1, failed.stderr
    assert "the disk is full" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not [path for path in output.rglob("*") if path.name.endswith(".partial")]
    # With room again, the same command continues.
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    report = build(BuildConfig(sources=(str(corpus),), output=str(output)))
    assert report.splits["train"].documents > 0
