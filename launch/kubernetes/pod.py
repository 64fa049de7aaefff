"""Pods of a run: one per machine, the same for every kind of job.

Their command holds nothing of the run, which is in a ConfigMap. Commands and variables are escaped,
because Kubernetes replaces $(NAME).
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from launch.config import LaunchConfig
from launch.field_types import digest_of
from launch.job import Job
from launch.liveness import HEARTBEAT
from launch.local import rank_environment
from launch.torchrun import OWN_STORES, SECRET_FILE, torchrun_command

RUN_DIRECTORY = PurePosixPath("/etc/resonance")
HEARTBEAT_FILE = "/tmp/heartbeat"
# torchrun waits as long for the other machines, without a heartbeat
SILENCE_S = 900
PORT = 29500
SECRET_KEY = "secret"
SECRET_DIRECTORY = PurePosixPath("/etc/resonance-rendezvous")


def labels(job: Job) -> dict[str, str]:
    """Labels that identify the objects of a run."""
    return {"app.kubernetes.io/name": "resonance", "app.kubernetes.io/instance": job.name}


def annotations(job: Job) -> dict[str, str]:
    """Annotations of a pod: digest of its run file, and the annotations that queues require."""
    kubernetes = job.config.kubernetes
    table = {"resonance.local/run": digest_of(job.run_files[0])}
    if has_pod_group(job):
        table["scheduling.k8s.io/group-name"] = job.name
    if kubernetes.queue == "kueue" and kubernetes.topology_key:
        table["kueue.x-k8s.io/podset-required-topology"] = kubernetes.topology_key
    return table


def config_map_name(job: Job) -> str:
    """Name of the ConfigMap, one per run file: pods of a job must not read an edited run."""
    return f"{job.name}-run-{digest_of(job.run_files[0])}"


def has_secret(job: Job) -> bool:
    """Whether the pods share a secret, which signs their rendezvous; one pod has none."""
    return job.config.nodes > 1


def secret_name(job: Job) -> str:
    """Name of the Secret with it."""
    return f"{job.name}-rendezvous"


def ranks_per_pod(config: LaunchConfig) -> int:
    """Number of ranks per pod: one per GPU, or as many as on this machine."""
    return config.kubernetes.gpus_per_node or config.processes


def port(config: LaunchConfig) -> int:
    """Port of the rendezvous."""
    return config.port or PORT


def command(job: Job, rendezvous: Sequence[str]) -> list[str]:
    """The torchrun command of a pod; only `rendezvous` may refer to variables as $(NAME)."""
    config = job.config
    words = torchrun_command(
        config.kubernetes.python,
        ["RENDEZVOUS"],
        RUN_DIRECTORY / "run.toml",
        processes=ranks_per_pod(config),
        max_restarts=config.max_restarts,
        arguments=["--auto-resume"],
    )
    index = words.index("RENDEZVOUS")
    before, after = map(escape, words[:index]), map(escape, words[index + 1 :])
    return [*before, *rendezvous, *after]


def environment(job: Job) -> list[dict[str, Any]]:
    """Environment variables of the ranks: plain values, and references to a Secret."""
    kubernetes = job.config.kubernetes
    # the root is read-only: caches go where HOME is
    fixed = {HEARTBEAT: HEARTBEAT_FILE, "HOME": "/tmp", OWN_STORES: "1"}
    if has_secret(job):
        fixed[SECRET_FILE] = str(SECRET_DIRECTORY / SECRET_KEY)
    plain = {**fixed, **rank_environment(job.config)}
    secret = [
        {
            "name": key,
            "valueFrom": {
                "secretKeyRef": {"name": kubernetes.secret, "key": key, "optional": True}
            },
        }
        for key in (kubernetes.secret_keys if kubernetes.secret else ())
    ]
    return [*({"name": name, "value": escape(value)} for name, value in plain.items()), *secret]


def escape(text: str) -> str:
    """A text in which Kubernetes does not replace $(NAME)."""
    return text.replace("$", "$$")


def container(job: Job, name: str, rendezvous: Sequence[str]) -> dict[str, Any]:
    """The container of a pod."""
    kubernetes = job.config.kubernetes
    probe = [kubernetes.python, "-m", "launch.liveness", HEARTBEAT_FILE, str(SILENCE_S)]
    return {
        "name": name,
        "image": kubernetes.image,
        "imagePullPolicy": kubernetes.image_pull_policy,
        "workingDir": kubernetes.mount_path,
        "command": command(job, rendezvous),
        "env": environment(job),
        "ports": [{"name": "rendezvous", "containerPort": port(job.config), "protocol": "TCP"}],
        "resources": resources(job),
        "startupProbe": {
            "exec": {"command": probe},
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": 60,
        },
        "livenessProbe": {
            "exec": {"command": probe},
            "periodSeconds": 60,
            "timeoutSeconds": 20,
            "failureThreshold": 3,
        },
        "securityContext": container_security(),
        "volumeMounts": mounts(job),
    }


def resources(job: Job) -> dict[str, Any]:
    """Requests equal to limits: a node under pressure evicts such pods last."""
    kubernetes = job.config.kubernetes
    amounts = {"cpu": kubernetes.cpu, "memory": kubernetes.memory}
    if kubernetes.gpus_per_node:
        amounts[kubernetes.gpu_resource] = str(kubernetes.gpus_per_node)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def container_security() -> dict[str, Any]:
    """Security context without privileges, in which only mounts are writable."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def mounts(job: Job) -> list[dict[str, Any]]:
    """Mounts of the run file, the secret, the claim, shared memory and a scratch directory."""
    secret = {"name": "rendezvous", "mountPath": str(SECRET_DIRECTORY), "readOnly": True}
    return [
        {"name": "run", "mountPath": str(RUN_DIRECTORY), "readOnly": True},
        *([secret] if has_secret(job) else ()),
        {"name": "workspace", "mountPath": job.config.kubernetes.mount_path},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "tmp", "mountPath": "/tmp"},
    ]


def volumes(job: Job) -> list[dict[str, Any]]:
    """Volumes for `mounts`."""
    memory = {"medium": "Memory", "sizeLimit": job.config.kubernetes.shm}
    # readable by the group of fsGroup, which the processes belong to
    secret = {"secretName": secret_name(job), "defaultMode": 0o440}
    return [
        {"name": "run", "configMap": {"name": config_map_name(job)}},
        *([{"name": "rendezvous", "secret": secret}] if has_secret(job) else ()),
        {"name": "workspace", "persistentVolumeClaim": {"claimName": claim_name(job)}},
        {"name": "shm", "emptyDir": memory},
        {"name": "tmp", "emptyDir": {}},
    ]


def claim_name(job: Job) -> str:
    """Name of the volume claim: configured, or made for this run."""
    return job.config.kubernetes.claim or f"{job.name}-workspace"


def placement(job: Job) -> dict[str, Any]:
    """Pod fields for the user, the placement and the end of the pods."""
    config, kubernetes = job.config, job.config.kubernetes
    fields: dict[str, Any] = {
        "terminationGracePeriodSeconds": config.stop_lead_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": kubernetes.user,
            "runAsGroup": kubernetes.user,
            "fsGroup": kubernetes.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if kubernetes.service_account:
        fields["serviceAccountName"] = kubernetes.service_account
    if kubernetes.image_pull_secret:
        fields["imagePullSecrets"] = [{"name": kubernetes.image_pull_secret}]
    if kubernetes.node_selector:
        fields["nodeSelector"] = dict(kubernetes.node_selector)
    if kubernetes.tolerations:
        fields["tolerations"] = [
            {"key": key, "operator": "Exists"} for key in kubernetes.tolerations
        ]
    if kubernetes.topology_key:
        same = {"labelSelector": {"matchLabels": labels(job)}}
        term = {**same, "topologyKey": kubernetes.topology_key}
        affinity = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
        fields["affinity"] = {"podAffinity": affinity}
    return fields


def has_pod_group(job: Job) -> bool:
    """Whether the job needs a Volcano PodGroup; the operator of PyTorchJobs creates its own."""
    kubernetes = job.config.kubernetes
    return kubernetes.queue == "volcano" and kubernetes.kind in ("job", "jobset")


def pod_template(job: Job, name: str, rendezvous: Sequence[str]) -> dict[str, Any]:
    """The complete pod template; `name` is the name of the container."""
    kubernetes = job.config.kubernetes
    fields = placement(job)
    if kubernetes.priority_class:
        fields["priorityClassName"] = kubernetes.priority_class
    if kubernetes.queue == "volcano":
        fields["schedulerName"] = "volcano"
    return {
        "metadata": {"labels": labels(job), "annotations": annotations(job)},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            **fields,
            "containers": [container(job, name, rendezvous)],
            "volumes": volumes(job),
        },
    }
