"""Values with quotes, line breaks and $(NAME) reach the pods as they are."""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.kubernetes.render import dump, manifests
from tests.unit.launch.jobs import make_job
from tests.unit.launch.test_hostile_shell import HOSTILE, VALUES

KINDS = ("job", "jobset", "trainjob", "pytorchjob")
KUBERNETES = {"image": "resonance:1", "claim": "data"}
# words that some YAML parsers read as another type
WORDS = ["yes", "no", "on", "off", "y", "n", "null", "~", "1e3", "0x1f", "012", "12:30:00", ".inf"]


def expand(text: str, variables: dict[str, str]) -> str:
    """Replace $(NAME) as the kubelet does (k8s.io/kubernetes/third_party/forked/golang/expansion).

    $$ is one $, a name that is not known stays.
    """

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name = match[1]
        return variables.get(name, match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", replace, text)


def environment(node: object) -> list[dict[str, str]]:
    """Every variable of every container in a manifest."""
    found = []
    if isinstance(node, dict):
        found += [entry for entry in node.get("env", ()) if "value" in entry]
        found += [entry for child in node.values() for entry in environment(child)]
    elif isinstance(node, list):
        found += [entry for child in node for entry in environment(child)]
    return found


def check_survives(value: str, kind: str) -> None:
    job = make_job(environment={"FREE": value}, kubernetes={**KUBERNETES, "kind": kind})
    job = job._replace(run_files=[f"# {value}\n"])
    documents = manifests(job)
    text = dump(documents)
    assert list(yaml.safe_load_all(text)) == documents
    found = [entry for entry in environment(documents) if entry["name"] == "FREE"]
    assert [expand(entry["value"], {"HOME": "pwned"}) for entry in found] == [value]
    assert documents[0]["data"]["run.toml"] == job.run_files[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [*HOSTILE, *WORDS, "$(HOME)", "$$(HOME)", "$$$", "---\na: b"])
def test_hostile_values(value: str, kind: str) -> None:
    check_survives(value, kind)


@settings(max_examples=100, deadline=None)
@given(value=VALUES, kind=st.sampled_from(KINDS))
def test_any_value(value: str, kind: str) -> None:
    check_survives(value, kind)


@pytest.mark.parametrize("word", WORDS)
def test_words_are_quoted_in_the_text(word: str) -> None:
    """Another parser than PyYAML must not read a variable as a number or a truth value."""
    job = make_job(environment={"FREE": word}, kubernetes=KUBERNETES)
    assert f'value: "{word}"' in dump(manifests(job))
