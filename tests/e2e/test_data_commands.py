"""The data commands as a user runs them: build, killed and continued, verify, stats."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RESONANCE = [sys.executable, "-m", "pretrain.cli"]
BUILD = ["data", "build", "--shard-bytes", "20000", "--part-bytes", "100000"]


def resonance(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [*RESONANCE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def digests(output: Path) -> dict[str, str]:
    """Return the checksum of every file but the report, which holds times."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != "report.json"
    }


def finished_shards(output: Path) -> dict[Path, int]:
    """Return the shards whose record says that they are finished, and when they were written."""
    found = {}
    for record in (output / ".work").glob("*.shard"):
        split, number = record.stem.split("-")
        shard = output / split / f"shard-{number}.tar"
        found[shard] = shard.stat().st_mtime_ns
    return found


def kill_during_build(arguments: list[str], output: Path, shards: int) -> None:
    """Start a build and end it with SIGKILL when so many shards are finished."""
    with subprocess.Popen([*RESONANCE, *arguments], stdout=subprocess.DEVNULL) as process:
        deadline_s = time.monotonic() + 60
        while len(finished_shards(output)) < shards:
            assert process.poll() is None, "the build ended before it could be killed"
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 3 MB of text in many files."""
    folder = tmp_path_factory.mktemp("sources")
    generator = random.Random(0)
    for number in range(300):
        words = [f"{generator.getrandbits(20):x}" for _ in range(1800)]
        (folder / f"{number:03d}.txt").write_text(" ".join(words))
    return folder


def test_a_killed_build_goes_on_without_repeating_shards(sources: Path, tmp_path: Path) -> None:
    model = str(tmp_path / "tokenizer.model")
    trained = resonance(
        "tokenizer", "train", "--inputs", str(sources), "--output", model, "--vocab-size", "400"
    )
    assert trained.returncode == 0, trained.stderr
    common = [*BUILD, "--sources", str(sources), "--tokenizer", model]
    whole = tmp_path / "whole"
    assert resonance(*common, "--output", str(whole)).returncode == 0
    output = tmp_path / "killed"
    command = [*common, "--output", str(output), "--num-processes", "2"]
    finished: dict[Path, int] = {}
    for shards in (5, 30, 60):
        kill_during_build(command, output, shards)
        after = finished_shards(output)
        # What was finished before the kill was not written again.
        assert {path: after[path] for path in finished} == finished
        finished = after
    done = resonance(*command)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert digests(output) == digests(whole)


def test_verify_and_stats(sources: Path, tmp_path: Path) -> None:
    output = tmp_path / "built"
    built = resonance(*BUILD, "--sources", str(sources), "--output", str(output))
    assert "300 documents" in built.stdout
    good = resonance("data", "verify", "--path", str(output))
    assert (good.returncode, good.stderr) == (0, "")
    assert "all agree with the manifest" in good.stdout
    png = tmp_path / "lengths.png"
    shown = resonance("data", "stats", "--path", str(output), "--png", str(png))
    assert "tokens and more" in shown.stdout
    assert png.read_bytes().startswith(b"\x89PNG")
    shard = output / "train" / "shard-000002.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    bad = resonance("data", "verify", "--path", str(output))
    assert bad.returncode == 1
    assert f"{shard}: SHA-256 is" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_bad_sources_end_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"text": \n')
    output = tmp_path / "out"
    for source, message in (
        (tmp_path / "missing.txt", "no such file"),
        (tmp_path / "bad.jsonl", "line 2: broken JSON"),
    ):
        failed = resonance("data", "build", "--sources", str(source), "--output", str(output))
        assert failed.returncode == 1
        assert message in failed.stderr
        assert len(failed.stderr.strip().splitlines()) == 1
        assert not list(output.rglob("*.tar"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks = []
    script = (
        "import resource, sys; from pretrain.cli import main; main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    generator = random.Random(0)
    for megabytes in (10, 150):
        source = tmp_path / f"{megabytes}.jsonl"
        with source.open("w") as file:
            for number in range(megabytes * 100):
                text = f"{number} " + generator.randbytes(5000).hex(" ", 4)
                file.write(json.dumps({"text": text}) + "\n")
        output = str(tmp_path / f"out-{megabytes}")
        command = [sys.executable, "-c", script, "data", "build", "--sources", str(source)]
        done = subprocess.run(
            [*command, "--output", output], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout.split()[-1]) // 1024)
    # Megabytes; what is kept per document is small.
    assert peaks[1] < peaks[0] + 60
