"""Jobs as Slurm 22.05 and 24.11 describe them."""

import json

import pytest

from launch.errors import LaunchError
from launch.slurm.job_states import JobState, parse_jobs


def number(value: int | None) -> dict[str, object]:
    """As 24.11 writes a number."""
    return {"set": value is not None, "infinite": False, "number": value or 0}


OLD = {
    "job_id": 12,
    "array_job_id": 0,
    "array_task_id": None,
    "name": "novels",
    "job_state": "COMPLETED",
    "state_reason": "None",
    "nodes": "n[1-2]",
    "exit_code": 0,
    "restart_cnt": 1,
}
NEW = {
    **OLD,
    "array_job_id": number(0),
    "array_task_id": number(None),
    "job_state": ["COMPLETED"],
    "exit_code": {"status": ["SUCCESS"], "return_code": number(0)},
}


def parse(job: dict[str, object]) -> JobState:
    (state,) = parse_jobs(json.dumps({"jobs": [job]}))
    return state


@pytest.mark.parametrize("job", [OLD, NEW], ids=["22.05", "24.11"])
def test_completed(job: dict[str, object]) -> None:
    assert parse(job) == JobState("12", "novels", "COMPLETED", "", "n[1-2]", 0, 1)
    assert parse(job).ended


@pytest.mark.parametrize(
    "job",
    [
        OLD | {"array_job_id": 12, "array_task_id": 3, "job_state": "FAILED", "exit_code": 75 << 8},
        NEW
        | {
            "array_job_id": number(12),
            "array_task_id": number(3),
            "job_state": ["FAILED"],
            "exit_code": {"status": ["ERROR"], "return_code": number(75)},
        },
    ],
    ids=["22.05", "24.11"],
)
def test_task_of_an_array(job: dict[str, object]) -> None:
    state = parse(job)
    assert (state.job, state.state, state.status) == ("12_3", "FAILED", 75)


@pytest.mark.parametrize(
    "job",
    [
        OLD | {"job_state": "PENDING", "state_reason": "Resources", "nodes": ""},
        NEW | {"job_state": ["PENDING"], "state_reason": "Resources", "nodes": None},
    ],
    ids=["22.05", "24.11"],
)
def test_waiting_job_has_a_reason_and_no_status(job: dict[str, object]) -> None:
    state = parse(job)
    assert (state.reason, state.nodes, state.status, state.ended) == ("Resources", "", None, False)


@pytest.mark.parametrize("state", ["PREEMPTED", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"])
def test_states_after_which_nothing_runs(state: str) -> None:
    assert parse(OLD | {"job_state": state}).ended
    assert parse(NEW | {"job_state": [state]}).ended


@pytest.mark.parametrize("state", ["RUNNING", "REQUEUED", "SUSPENDED", "SPECIAL_EXIT", "STOPPED"])
def test_states_after_which_something_may_run(state: str) -> None:
    assert not parse(OLD | {"job_state": state}).ended


def test_cancelled_job_that_is_completing_may_still_be_saving() -> None:
    state = parse(NEW | {"job_state": ["CANCELLED", "COMPLETING"]})
    assert (state.state, state.ended) == ("CANCELLED", False)
    assert not parse(OLD | {"job_state": "COMPLETING"}).ended
    assert parse(NEW | {"job_state": ["CANCELLED"]}).ended


@pytest.mark.parametrize(
    "job",
    [
        {
            "job_id": 12,
            "name": "novels",
            "state": {"current": "TIMEOUT", "reason": "TimeLimit"},
            "array": {"job_id": 0, "task_id": None},
            "nodes": "n1",
            "exit_code": {"status": "ERROR", "return_code": 1},
        },
        {
            "job_id": 12,
            "name": "novels",
            "state": {"current": ["TIMEOUT"], "reason": "TimeLimit"},
            "array": {"job_id": 0, "task_id": number(None)},
            "nodes": "n1",
            "exit_code": {"status": ["ERROR"], "return_code": number(1)},
        },
    ],
    ids=["22.05", "24.11"],
)
def test_accounting(job: dict[str, object]) -> None:
    assert parse(job) == JobState("12", "novels", "TIMEOUT", "TimeLimit", "n1", 1, 0)


@pytest.mark.parametrize("text", ["", "Slurm job completion is disabled", "[]", '{"jobs": [{}]}'])
def test_other_output_is_refused(text: str) -> None:
    with pytest.raises(LaunchError, match="Slurm's JSON"):
        parse_jobs(text)
