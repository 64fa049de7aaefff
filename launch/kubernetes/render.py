"""Manifests of a run: a pure function of the job, so they are tested without a cluster."""

import base64
import posixpath
import re
from pathlib import PurePosixPath

import yaml

from launch.errors import LaunchError
from launch.job import Job
from launch.kubernetes import pod
from launch.kubernetes.validation import Manifest, problems
from launch.kubernetes.workloads import JOBS

MAX_CONFIG_MAP_BYTES = 1_000_000
# host names have at most 63 characters, including the suffixes that operators append
LONGEST_NAME = {"job": 52, "jobset": 48, "trainjob": 48, "pytorchjob": 48}


def manifests(job: Job) -> list[Manifest]:
    """The objects of a run, in the order in which they are created.

    Raises:
        LaunchError: The image or the claim is not configured, or a manifest breaks a rule of
            Kubernetes.
    """
    kubernetes = job.config.kubernetes
    _require(job)
    documents = [_config_map(job), _network_policy(job)]
    if kubernetes.claim_size:
        documents.append(_claim(job))
    if pod.has_pod_group(job):
        documents.append(_pod_group(job))
    documents += JOBS[kubernetes.kind](job)
    documents = [_labelled(job, document) for document in documents]
    violations = [problem for document in documents for problem in problems(document)]
    if violations:
        raise LaunchError("Kubernetes would reject the manifests:\n  " + "\n  ".join(violations))
    return documents


def rendezvous_secret(job: Job, secret: str) -> Manifest:
    """The Secret that the pods of a job share; apart from `manifests`, which are printed.

    Args:
        job: Job of several pods.
        secret: Secret, made for this submission.
    """
    return _labelled(
        job,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": pod.secret_name(job)},
            "type": "Opaque",
            "data": {pod.SECRET_KEY: base64.b64encode(secret.encode()).decode()},
        },
    )


def dump(documents: list[Manifest]) -> str:
    """Manifests as one YAML stream."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=100)


def _require(job: Job) -> None:
    kubernetes = job.config.kubernetes
    if not kubernetes.image:
        raise LaunchError(
            "launch.kubernetes.image is empty; expected an image with Resonance in it "
            "(launch/kubernetes/Dockerfile builds one)"
        )
    if not kubernetes.claim and not kubernetes.claim_size:
        raise LaunchError(
            "launch.kubernetes.claim is empty; expected the name of a volume claim with the data, "
            "or launch.kubernetes.claim_size to make one"
        )
    if len(job.run_files) != 1:
        raise LaunchError("a sweep is several runs; expected one run per Kubernetes job")
    output = PurePosixPath(posixpath.normpath(job.output))
    if not output.is_relative_to(kubernetes.mount_path):
        raise LaunchError(
            f"train.output is {output} in a pod, which can write below "
            f"launch.kubernetes.mount_path only; expected a path below {kubernetes.mount_path}, or "
            "a relative one"
        )
    limit = LONGEST_NAME[kubernetes.kind]
    if len(job.name) > limit:
        raise LaunchError(
            f"launch.name: expected at most {limit} characters for a {kubernetes.kind}, found "
            f"{len(job.name)}: {job.name}"
        )
    if len(job.run_files[0].encode()) > MAX_CONFIG_MAP_BYTES:
        raise LaunchError("the run file is larger than a ConfigMap can be (1 MB)")


def _labelled(job: Job, document: Manifest) -> Manifest:
    """A document with the labels of the run and its namespace."""
    metadata = {**document["metadata"]}
    metadata["labels"] = {**pod.labels(job), **metadata.get("labels", {})}
    if job.config.kubernetes.namespace:
        metadata["namespace"] = job.config.kubernetes.namespace
    return {**document, "metadata": metadata}


def _network_policy(job: Job) -> Manifest:
    """The policy by which the pods of the run are reached by one another only."""
    own_pods = {"matchLabels": pod.labels(job)}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": job.name},
        "spec": {
            "podSelector": own_pods,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": own_pods}]}],
        },
    }


def _config_map(job: Job) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": pod.config_map_name(job)},
        "data": {"run.toml": job.run_files[0]},
    }


def _claim(job: Job) -> Manifest:
    kubernetes = job.config.kubernetes
    spec: Manifest = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": kubernetes.claim_size}},
    }
    if kubernetes.storage_class:
        spec["storageClassName"] = kubernetes.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": pod.claim_name(job)},
        "spec": spec,
    }


def _pod_group(job: Job) -> Manifest:
    """The group of pods that Volcano starts together or not at all."""
    return {
        "apiVersion": "scheduling.volcano.sh/v1beta1",
        "kind": "PodGroup",
        "metadata": {"name": job.name},
        "spec": {
            "minMember": job.config.min_nodes or job.config.nodes,
            "queue": job.config.kubernetes.queue_name,
        },
    }


class _Dumper(yaml.SafeDumper):
    """YAML that every parser reads alike: text that could be another type is quoted."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    if "\n" in value:
        style = "|"
    elif re.fullmatch(r"[A-Za-z/][A-Za-z0-9_./-]+", value) and not _is_word(value):
        style = None
    else:
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _is_word(value: str) -> bool:
    return value.lower() in ("yes", "no", "on", "off", "true", "false", "null", "inf", "nan")


_Dumper.add_representer(str, _text)
_Dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign]
