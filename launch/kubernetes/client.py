"""Applying, watching and deleting manifests with kubectl."""

import json
from collections.abc import Iterator
from pathlib import Path

from launch.errors import LaunchError
from launch.job import Job
from launch.kubernetes.checks import Manifest
from launch.kubernetes.render import dump
from launch.ledger import Submitted, note
from launch.programs import call


def apply(job: Job, documents: list[Manifest]) -> str:
    """Create every object, or change what exists; returns what kubectl says.

    Raises:
        LaunchError: kubectl is missing, or the cluster refuses.
    """
    text = dump(documents)
    answer = call(["kubectl", "apply", "--filename=-"], text)
    directory = Path(job.directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "manifests.yaml").write_text(text, encoding="utf-8")
    last = documents[-1]
    reference = f"{_resource(last)}/{job.name}"
    note(directory, Submitted("kubernetes", reference, job.config.kubernetes.namespace))
    return answer.strip()


def status(submitted: Submitted) -> str:
    """One line: the object and its last condition.

    Raises:
        LaunchError: kubectl is missing, or the cluster cannot be asked.
    """
    text = call(
        ["kubectl", "get", submitted.job, "--output=json", "--ignore-not-found", *_where(submitted)]
    )
    if not text.strip():
        return f"kubernetes {submitted.job}: deleted"
    state = json.loads(text).get("status", {})
    conditions = state.get("conditions", [])
    shown = conditions[-1]["type"] if conditions else "waiting"
    active = f", {state['active']} pods active" if state.get("active") else ""
    return f"kubernetes {submitted.job}: {shown}{active}"


def logs(submitted: Submitted, lines: int) -> str:
    """The end of the logs of the object's pods.

    Raises:
        LaunchError: kubectl is missing, or there are no logs.
    """
    instance = submitted.job.partition("/")[2]
    selector = f"--selector=app.kubernetes.io/instance={instance}"
    return call(["kubectl", "logs", selector, "--prefix", f"--tail={lines}", *_where(submitted)])


def delete(submitted: Submitted) -> str:
    """Delete an object and with it its pods, which are asked to stop first.

    Raises:
        LaunchError: kubectl is missing, or the cluster refuses.
    """
    options = ["--ignore-not-found", "--wait=false", *_where(submitted)]
    answer = call(["kubectl", "delete", submitted.job, *options])
    return answer.strip() or f"{submitted.job}: nothing to cancel"


def require_claim(job: Job) -> Iterator[str]:
    """Yields what was found of the volume claim.

    Raises:
        LaunchError: There is no such claim, kubectl is missing, or the cluster cannot be asked.
    """
    kubernetes = job.config.kubernetes
    if kubernetes.claim_size:
        yield f"a claim of {kubernetes.claim_size} is made if it is not there"
        return
    where = [f"--namespace={kubernetes.namespace}"] if kubernetes.namespace else []
    found = call(
        ["kubectl", "get", "pvc", kubernetes.claim, "--output=name", "--ignore-not-found", *where]
    )
    if not found.strip():
        raise LaunchError(f"there is no volume claim {kubernetes.claim}")
    yield found.strip()


def _where(submitted: Submitted) -> list[str]:
    return [f"--namespace={submitted.namespace}"] if submitted.namespace else []


def _resource(document: Manifest) -> str:
    group, _, _version = str(document["apiVersion"]).rpartition("/")
    kind = str(document["kind"]).lower()
    return f"{kind}.{group}" if group and group != "batch" else kind
