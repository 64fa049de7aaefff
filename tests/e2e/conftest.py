"""Runs that a failed test has started end with it."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.runs import STARTED


@pytest.fixture(autouse=True)
def _nothing_is_left_over() -> Iterator[None]:
    """What a failed test has started ends with it."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
