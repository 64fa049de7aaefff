"""Freed memory comes back without the kernel clearing it again."""

import os
import subprocess
import sys

import pytest

from pretrain.runtime.malloc import allocator_environment

SCRIPT = """
import resource, sys, torch
from pretrain.runtime.malloc import reuse_freed_memory
if sys.argv[1] == "reuse" and not reuse_freed_memory():
    print("no mallopt")
    sys.exit()
signal = torch.ones(16 << 20)


def work():
    # several blocks of 64 MiB, as a step of training takes and frees them
    return ((signal * 2.0).exp() + signal).sum()


for _ in range(4):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    work()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


def _fresh_bytes(mode: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    # ld.so complains here of a library that it cannot load
    assert not done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def left() -> int:
    """Three blocks of 64 MiB each time, as new pages."""
    fresh = int(_fresh_bytes("leave"))
    assert fresh >= 4 * 3 * (64 << 20)
    return fresh


def test_large_blocks_are_reused(left: int) -> None:
    reused = _fresh_bytes("reuse")
    if reused == "no mallopt":
        pytest.skip("the C library is not glibc")
    assert int(reused) <= left / 4


def test_processes_that_are_started_with_mimalloc_reuse_them(left: int) -> None:
    environment = allocator_environment()
    if not environment:
        pytest.skip("cmeel-mimalloc is not installed: it is for Linux")
    assert int(_fresh_bytes("leave", **environment)) <= left / 4


def test_what_is_preloaded_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/other.so")
    assert allocator_environment() == {}
