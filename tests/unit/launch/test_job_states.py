"""Jobs as squeue and sacct list them, among whatever else a site prints."""

import pytest

from launch.slurm.job_states import JobState, parse_sacct, parse_squeue
from tests.unit.launch.stand_ins import listed

NOISE = "Welcome | to | the | cluster | of | the lab\n\na|b\n41 jobs|today\n"


def parse(line: str) -> JobState:
    (state,) = parse_squeue(f"{NOISE}{line}\n{NOISE}")
    return state


def test_completed() -> None:
    line = "12   |COMPLETED  |0   |1   |n[1-2]   |None"
    assert parse(line) == JobState("12", "COMPLETED", "", "n[1-2]", 0, 1)
    assert parse(line).ended


# 22.05 prints what wait(2) reports, newer versions STATUS:SIGNAL
@pytest.mark.parametrize("status", [str(75 << 8), "75:0"])
def test_task_of_an_array(status: str) -> None:
    state = parse(listed("12_3", "FAILED", status))
    assert (state.job, state.state, state.status) == ("12_3", "FAILED", 75)


def test_waiting_job_has_a_reason_and_no_status() -> None:
    state = parse("12|PENDING|0|0||(Nodes required for job are DOWN|DRAINED)")
    assert state == JobState(
        "12", "PENDING", "(Nodes required for job are DOWN|DRAINED)", "", None, 0
    )
    assert not state.ended


@pytest.mark.parametrize("state", ["PREEMPTED", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"])
def test_states_after_which_nothing_runs(state: str) -> None:
    assert parse(listed("12", state)).ended


@pytest.mark.parametrize(
    "state", ["RUNNING", "REQUEUED", "SUSPENDED", "SPECIAL_EXIT", "STOPPED", "COMPLETING"]
)
def test_states_after_which_something_may_run(state: str) -> None:
    """A cancelled job that is completing may still be saving."""
    assert not parse(listed("12", state)).ended


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("12|TIMEOUT|1:0|n1|TimeLimit", JobState("12", "TIMEOUT", "TimeLimit", "n1", 1, 0)),
        ("12_0|CANCELLED by 1000|0:15|n1|None", JobState("12_0", "CANCELLED", "", "n1", 0, 0)),
        ("12|PENDING|0:0|None assigned|None", JobState("12", "PENDING", "", "", None, 0)),
    ],
)
def test_accounting(line: str, expected: JobState) -> None:
    assert parse_sacct(f"{NOISE}{line}\n12.batch|COMPLETED|0:0|n1|\n{NOISE}") == [expected]
