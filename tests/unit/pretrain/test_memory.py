"""Freed memory comes back without the kernel clearing it again."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from pretrain.memory import reuse_freed_memory
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


def _fresh_bytes(mode: str) -> str:
    command = [sys.executable, "-c", SCRIPT, mode]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_large_blocks_are_reused() -> None:
    reused = _fresh_bytes("reuse")
    if reused == "no mallopt":
        pytest.skip("the C library is not glibc")
    # three blocks of 64 MiB each time: as new pages without, nearly always the same ones with it
    left = int(_fresh_bytes("leave"))
    assert left >= 4 * 3 * (64 << 20)
    assert int(reused) <= left / 4
