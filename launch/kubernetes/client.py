"""Creation, status and deletion of objects with kubectl."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from launch.cluster_commands import call
from launch.errors import LaunchError
from launch.job import Job
from launch.kubernetes import pod
from launch.kubernetes.render import dump, rendezvous_secret
from launch.kubernetes.validation import Manifest
from launch.submissions import Submitted, note
from launch.torchrun import make_secret

# conditions, over all kinds of job, after which no pod is started
ENDED = ("Complete", "Completed", "Failed", "Succeeded")


def submit(job: Job, documents: list[Manifest]) -> str:
    """Create the job, and create or update the objects that it needs.

    Returns:
        The output of kubectl.

    Raises:
        LaunchError: kubectl is missing, the cluster refuses, or a job of this name exists.
    """
    directory = Path(job.directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "manifests.yaml").write_text(dump(documents), encoding="utf-8")
    *prerequisites, job_document = documents
    if pod.has_secret(job):
        # read from standard input and kept in no file here
        prerequisites.append(rendezvous_secret(job, make_secret()))
    applied = call(["kubectl", "apply", "--filename=-"], dump(prerequisites))
    # not applied: for an unchanged job that would succeed and start nothing
    created = call(["kubectl", "create", "--filename=-"], dump([job_document]))
    note(directory, _submitted(job, job_document))
    return (applied + created).strip()


def require_new(job: Job, documents: list[Manifest]) -> Iterator[str]:
    """Check that the job's name in the cluster is free; yields a description.

    Raises:
        LaunchError: A job of this name exists, kubectl is missing, or the cluster refuses.
    """
    submitted = _submitted(job, documents[-1])
    command = ["kubectl", "get", submitted.job, "--output=name", "--ignore-not-found"]
    if _names(call([*command, *_where(submitted)])):
        raise LaunchError(f"{submitted.job} is there already, running or ended")
    yield f"no {submitted.job} is there"


def lives(submitted: Submitted) -> bool:
    """Whether an object exists and has not ended.

    Raises:
        LaunchError: kubectl is missing, or the cluster does not answer.
    """
    state = _state(submitted)
    conditions = [] if state is None else state.get("conditions", [])
    ended = any(
        condition["type"] in ENDED and condition["status"] == "True" for condition in conditions
    )
    return state is not None and not ended


def status(submitted: Submitted) -> str:
    """A line with the object and its last condition.

    Raises:
        LaunchError: kubectl is missing, or the cluster does not answer.
    """
    state = _state(submitted)
    if state is None:
        return f"kubernetes {submitted.job}: deleted"
    conditions = state.get("conditions", [])
    condition = conditions[-1]["type"] if conditions else "waiting"
    active = f", {state['active']} pods active" if state.get("active") else ""
    return f"kubernetes {submitted.job}: {condition}{active}"


def logs(submitted: Submitted, lines: int) -> str:
    """The end of the logs of the object's pods.

    Raises:
        LaunchError: kubectl is missing, or there are no logs.
    """
    instance = submitted.job.partition("/")[2]
    selector = f"--selector=app.kubernetes.io/instance={instance}"
    return call(["kubectl", "logs", selector, "--prefix", f"--tail={lines}", *_where(submitted)])


def delete(submitted: Submitted) -> str:
    """Delete an object and its pods, which receive a request to stop first.

    Raises:
        LaunchError: kubectl is missing, or the cluster refuses.
    """
    options = ["--ignore-not-found", "--wait=false", *_where(submitted)]
    answer = call(["kubectl", "delete", submitted.job, *options])
    return answer.strip() or f"{submitted.job}: nothing to cancel"


def require_claim(job: Job) -> Iterator[str]:
    """Check that the volume claim exists or will be created; yields a description.

    Raises:
        LaunchError: There is no such claim, kubectl is missing, or the cluster does not answer.
    """
    kubernetes = job.config.kubernetes
    if kubernetes.claim_size:
        yield f"a claim of {kubernetes.claim_size} is created if it does not exist"
        return
    where = [f"--namespace={kubernetes.namespace}"] if kubernetes.namespace else []
    claim = call(
        ["kubectl", "get", "pvc", kubernetes.claim, "--output=name", "--ignore-not-found", *where]
    )
    names = _names(claim)
    if not names:
        raise LaunchError(f"there is no volume claim {kubernetes.claim}")
    yield names[-1]


def _state(submitted: Submitted) -> Manifest | None:
    """The status of an object in the cluster; None if the object does not exist."""
    command = ["kubectl", "get", submitted.job, "--output=json", "--ignore-not-found"]
    text = call([*command, *_where(submitted)])
    # a wrapper of kubectl may print lines around the object
    starts = [match.start() for match in re.finditer(r"^\{", text, re.MULTILINE)]
    for start in reversed(starts):
        with contextlib.suppress(json.JSONDecodeError):
            state: Manifest = json.JSONDecoder().raw_decode(text, start)[0].get("status", {})
            return state
    if starts:
        raise LaunchError(f"kubectl printed no whole object: {text.strip()!r}")
    return None


def _names(text: str) -> list[str]:
    """The lines RESOURCE/NAME among those that kubectl and a wrapper of it print."""
    return [line for line in text.splitlines() if re.fullmatch(r"[a-z0-9.-]+/[a-z0-9.-]+", line)]


def _submitted(job: Job, document: Manifest) -> Submitted:
    reference = f"{_resource(document)}/{job.name}"
    return Submitted("kubernetes", reference, job.config.kubernetes.namespace)


def _where(submitted: Submitted) -> list[str]:
    return [f"--namespace={submitted.namespace}"] if submitted.namespace else []


def _resource(document: Manifest) -> str:
    group, _, _version = str(document["apiVersion"]).rpartition("/")
    kind = str(document["kind"]).lower()
    return f"{kind}.{group}" if group and group != "batch" else kind
