"""Applying, watching and deleting manifests with kubectl."""

import json
from collections.abc import Iterator
from pathlib import Path

from launch.cluster_commands import call
from launch.errors import LaunchError
from launch.job import Job
from launch.kubernetes.render import dump
from launch.kubernetes.validation import Manifest
from launch.submissions import Submitted, note

# Conditions of the kinds of job after which no pod is started.
ENDED = ("Complete", "Completed", "Failed", "Succeeded")


def submit(job: Job, documents: list[Manifest]) -> str:
    """Create the job, and make or change what it needs; returns what kubectl says.

    Raises:
        LaunchError: kubectl is missing, the cluster refuses, or there is a job of this name.
    """
    directory = Path(job.directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "manifests.yaml").write_text(dump(documents), encoding="utf-8")
    *needs, last = documents
    needed = call(["kubectl", "apply", "--filename=-"], dump(needs))
    # not applied: to an unchanged job that would mean success, and start nothing
    created = call(["kubectl", "create", "--filename=-"], dump([last]))
    note(directory, _submitted(job, last))
    return (needed + created).strip()


def require_new(job: Job, documents: list[Manifest]) -> Iterator[str]:
    """Yields the job's name in the cluster, if it is free.

    Raises:
        LaunchError: There is a job of this name, kubectl is missing, or the cluster refuses.
    """
    submitted = _submitted(job, documents[-1])
    command = ["kubectl", "get", submitted.job, "--output=name", "--ignore-not-found"]
    if call([*command, *_where(submitted)]).strip():
        raise LaunchError(f"{submitted.job} is there already, running or ended")
    yield f"no {submitted.job} is there"


def lives(submitted: Submitted) -> bool:
    """Whether an object is there and has not ended.

    Raises:
        LaunchError: kubectl is missing, or the cluster cannot be asked.
    """
    state = _state(submitted)
    conditions = [] if state is None else state.get("conditions", [])
    ended = any(one["type"] in ENDED and one["status"] == "True" for one in conditions)
    return state is not None and not ended


def status(submitted: Submitted) -> str:
    """One line: the object and its last condition.

    Raises:
        LaunchError: kubectl is missing, or the cluster cannot be asked.
    """
    state = _state(submitted)
    if state is None:
        return f"kubernetes {submitted.job}: deleted"
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


def _state(submitted: Submitted) -> Manifest | None:
    """What the cluster says of an object; None: it is not there."""
    command = ["kubectl", "get", submitted.job, "--output=json", "--ignore-not-found"]
    text = call([*command, *_where(submitted)])
    if not text.strip():
        return None
    state: Manifest = json.loads(text).get("status", {})
    return state


def _submitted(job: Job, document: Manifest) -> Submitted:
    reference = f"{_resource(document)}/{job.name}"
    return Submitted("kubernetes", reference, job.config.kubernetes.namespace)


def _where(submitted: Submitted) -> list[str]:
    return [f"--namespace={submitted.namespace}"] if submitted.namespace else []


def _resource(document: Manifest) -> str:
    group, _, _version = str(document["apiVersion"]).rpartition("/")
    kind = str(document["kind"]).lower()
    return f"{kind}.{group}" if group and group != "batch" else kind
