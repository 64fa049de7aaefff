"""`launch check --on-nodes`: what the nodes are asked, and what is made of their answers."""

import json
import shlex
from pathlib import Path

import pytest

from launch.errors import LaunchError
from launch.slurm.preflight import versions_agree
from launch.versions import versions
from tests.unit.launch.jobs import make_job
from tests.unit.launch.stand_ins import called, write

IMAGE = {"image": "registry#lab/resonance:1", "container_python": "/opt/py"}


def answer(host: str, **others: str) -> str:
    return json.dumps({**versions(), "host": host, **others})


def let_nodes_say(programs: Path, *lines: str) -> None:
    write(programs, "srun", f"printf '%s\\n' {shlex.join(lines)}")


def test_banner_before_the_versions(programs: Path) -> None:
    let_nodes_say(programs, "Welcome to n1!", '"motd"', "7", answer("n1"), "", answer("n2"))
    assert list(versions_agree(make_job(nodes=2))) == ["2 nodes have the versions of this machine"]


@pytest.mark.parametrize("lines", [["Welcome to n1!"], ["Welcome to n1!", answer("n1")]])
def test_node_that_says_nothing(programs: Path, lines: list[str]) -> None:
    let_nodes_say(programs, *lines)
    with pytest.raises(LaunchError, match=rf"{len(lines) - 1} of 2 nodes .*Welcome to n1!"):
        list(versions_agree(make_job(nodes=2)))


def test_other_versions_on_a_node(programs: Path) -> None:
    let_nodes_say(programs, answer("n1"), answer("n2", torch="1.0"))
    with pytest.raises(LaunchError, match=r"n2: torch 1\.0; expected"):
        list(versions_agree(make_job(nodes=2)))


def test_pyxis_is_asked_as_the_script_asks_it(programs: Path) -> None:
    # the image need not have what this machine has, but the same on all nodes
    let_nodes_say(programs, answer("n1", torch="9.0"), answer("n2", torch="9.0"))
    job = make_job(nodes=2, slurm={"container": "pyxis", **IMAGE})
    assert list(versions_agree(job)) == ["2 nodes have the versions of n1 in the container"]
    (call,) = called(programs)
    assert "--container-image=registry#lab/resonance:1" in call
    assert "--container-workdir=/shared/my project" in call
    assert call.endswith(" /opt/py -m launch.versions")
    let_nodes_say(programs, answer("n1", torch="9.0"), answer("n2"))
    with pytest.raises(LaunchError, match=r"n2: torch .*; expected 9\.0"):
        list(versions_agree(job))


def test_apptainer_is_asked_as_the_script_asks_it(programs: Path) -> None:
    let_nodes_say(programs, answer("n1"))
    list(versions_agree(make_job(slurm={"container": "apptainer", **IMAGE})))
    (call,) = called(programs)
    assert " apptainer exec --bind=/shared/my project:/shared/my project " in call
    assert call.endswith(" registry#lab/resonance:1 /opt/py -m launch.versions")
