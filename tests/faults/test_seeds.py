"""A short form of `python -m tests.faults`, and the plans that have failed once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.driver import Driver
from tests.faults.kinds import KINDS, missing
from tests.faults.plan import Plan, Planned, plan_of
from tests.faults.record import OK

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
# each with what went wrong: later kinds of faults change what a seed draws
FAILED = json.loads(Path(__file__).with_name("failed_plans.json").read_text(encoding="utf-8"))


# a minute or more each
SLOW = {"rank hangs", "clock jumps", "link lost"}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    kinds = [kind for kind in KINDS if kind not in {*missing(), *SLOW}]
    if not kinds:
        pytest.skip("needs root")
    made = Driver(tmp_path_factory.mktemp("faults"), kinds)
    yield made
    made.close()


def test_a_seed_gives_one_plan() -> None:
    assert plan_of(3) == plan_of(3)
    assert plan_of(3) != plan_of(4)


def test_runs_survive_the_faults_of_a_few_seeds(driver: Driver) -> None:
    driver.run_many(0, faults=40, seconds=90)
    assert driver.count() > 10
    assert {(line["seed"], line["outcome"]) for line in driver.record.lines()} == {
        (line["seed"], OK) for line in driver.record.lines()
    }


@pytest.mark.slow
@pytest.mark.parametrize("failed", FAILED, ids=lambda failed: failed["showed"])
def test_a_plan_that_has_failed_once(failed: dict[str, Any], driver: Driver) -> None:
    seed, layout, scene, faults = failed["plan"]
    assert driver.run_one(Plan(seed, layout, scene, tuple(Planned(*f) for f in faults))) == OK
