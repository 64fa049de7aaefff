"""What becomes of a job whose ranks have ended, as a table."""

import pytest

from launch.slurm.requeue import Ending, Failure, Limits, bad_hosts, decide, parse_failures

LIMITS = Limits(requeues=3, failures=2, exclude_after=2)


def end(
    status: int,
    *,
    stopped: bool = False,
    state: str = "RUNNING",
    requeues: int = 0,
    attempts: int = 0,
) -> Ending:
    return Ending(status, stopped, state, requeues, attempts)


def failure(time: float, host: str, status: int = 1, attempt: str = "7.0") -> Failure:
    return Failure(time, host, status, attempt)


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (end(0), "done"),
        (end(0, stopped=True), "done"),
        (end(75), "requeue"),
        (end(75, stopped=True, requeues=2), "requeue"),
        (end(75, stopped=True, requeues=3), "stop"),
        (end(137, stopped=True, attempts=1), "requeue"),
        (end(1, attempts=1), "requeue"),
        (end(1, attempts=2), "requeue"),
        (end(1, attempts=3), "stop"),
        (end(75, state="COMPLETING"), "stop"),
        (end(78, attempts=1), "stop"),
        (end(1, state="CANCELLED", attempts=1), "stop"),
        (end(1, state="UNKNOWN", attempts=1), "stop"),
    ],
)
def test_single_job(ending: Ending, expected: str) -> None:
    assert decide(ending, LIMITS, [], [], "single") == expected


@pytest.mark.parametrize("status", [1, 75])
def test_chain_leaves_the_rest_to_the_next_job(status: int) -> None:
    assert decide(end(status, attempts=1), LIMITS, [], [], "chain") == "stop"


def test_bad_node_is_excluded_beside_those_that_are() -> None:
    failures = [failure(0, "n2"), failure(500, "n2", attempt="7.1")]
    assert decide(end(1, attempts=2), LIMITS, failures, ["n9"], "single") == "exclude n9,n2"
    # it was left out already: something else is wrong
    assert decide(end(1, attempts=2), LIMITS, failures, ["n2"], "single") == "requeue"
    # asked to stop: not the node's fault
    assert decide(end(75, attempts=2), LIMITS, failures, [], "single") == "requeue"


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([], []),
        ([failure(0, "n1")], []),
        # peers of a dead rank fail with it: the signal tells who was first
        ([failure(0, "n2"), failure(1, "n1", -9), failure(900, "n1", -9)], ["n1"]),
        # without a signal, the earliest
        ([failure(0, "n2"), failure(1, "n1"), failure(900, "n2"), failure(901, "n1")], ["n2"]),
        # one incident is counted once
        ([failure(0, "n1"), failure(2, "n1"), failure(80, "n1")], []),
        # two attempts are two incidents, however quickly they follow
        ([failure(0, "n1"), failure(9, "n1", attempt="7.1")], ["n1"]),
        # who lost contact is not the cause, even if nobody else is known: that machine is gone
        ([failure(0, "n1", 69), failure(1, "n2"), failure(900, "n2"), failure(901, "n1")], ["n2"]),
        ([failure(0, "n1", 69), failure(900, "n1", 69)], []),
    ],
)
def test_bad_hosts(failures: list[Failure], expected: list[str]) -> None:
    assert bad_hosts(failures, 2) == expected
    assert bad_hosts(failures[::-1], 2) == expected


@pytest.mark.parametrize(
    "damaged",
    [
        "1797.1 n",
        "1797.11798.2 n1 1 7.0",
        "1797.1 n1 1 7.01798.2 n1 1 7.0",
        "soon n1 1 7.0",
        "1797.1 n1 --1 7.0",
        "1797.1 n1 ² 7.0",
        "\0\0\0",
    ],
)
def test_failure_log_with_a_damaged_line(damaged: str) -> None:
    text = f"1795.5 n1 -9 7.0\n{damaged}\n1796.0 n2 1 7.0\n{damaged}"
    assert parse_failures(text) == [failure(1795.5, "n1", -9), failure(1796.0, "n2")]
