"""Measurements in fresh processes, and times taken alternately."""

import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar
from unittest.mock import patch

P = ParamSpec("P")
T = TypeVar("T")


def in_fresh_process(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """The value of a function in a new process, so that its peak memory is its own.

    Args:
        function: A function of a module, not of a package's `__main__`.
        arguments: What can be pickled.
        options: Likewise.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **options).result()


def with_environment(
    variables: dict[str, str], function: Callable[P, T], *arguments: P.args, **options: P.kwargs
) -> T:
    """As `in_fresh_process`, for a process that starts with more environment variables."""
    with patch.dict(os.environ, variables):
        return in_fresh_process(function, *arguments, **options)


def resident_bytes() -> int:
    """Peak resident memory of this process so far; of its parent if that held more."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fastest(*runs: Callable[[], object], seconds: float = 0.0, least: int = 2) -> list[float]:
    """The shortest time of each run in seconds.

    Runs take turns, so that other load on the machine hits all of them.

    Args:
        runs: What is timed.
        seconds: Time after which no further round begins.
        least: Rounds at least.
    """
    times: list[list[float]] = [[] for _ in runs]
    begin = time.perf_counter()
    while len(times[0]) < least or time.perf_counter() - begin < seconds:
        for run, run_times in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            run_times.append(time.perf_counter() - start)
    return [min(run_times) for run_times in times]
