"""The pods of a run: one per machine, the same under every kind of job.

Nothing of the run is in their command: the ConfigMap holds the run file. What is in it, such as
variables, is escaped, because Kubernetes replaces $(NAME).
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from launch.config import LaunchConfig
from launch.field_types import digest_of
from launch.job import Job
from launch.liveness import HEARTBEAT
from launch.local import rank_environment
from launch.torchrun import torchrun_command

RUN_DIRECTORY = PurePosixPath("/etc/resonance")
HEARTBEAT_FILE = "/tmp/heartbeat"
# torchrun waits as long for the other machines, without a sign of life
SILENCE_S = 900
PORT = 29500
# Otherwise torchrun tells the address of its store in the first round only, and a pod that comes
# later, in the place of another, waits for it until it fails.
OWN_STORES = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


def labels(job: Job) -> dict[str, str]:
    """What tells a run's objects from others."""
    return {"app.kubernetes.io/name": "resonance", "app.kubernetes.io/instance": job.name}


def annotations(job: Job) -> dict[str, str]:
    """Which run a pod was started with, and what queues ask for."""
    kubernetes = job.config.kubernetes
    table = {"resonance.local/run": digest_of(job.run_files[0])}
    if has_pod_group(job):
        table["scheduling.k8s.io/group-name"] = job.name
    if kubernetes.queue == "kueue" and kubernetes.topology_key:
        table["kueue.x-k8s.io/podset-required-topology"] = kubernetes.topology_key
    return table


def config_map_name(job: Job) -> str:
    """Of this run file and no other: an edited run must not change what pods of a job read."""
    return f"{job.name}-run-{digest_of(job.run_files[0])}"


def ranks_per_pod(config: LaunchConfig) -> int:
    """One rank per GPU, or as many as on this machine."""
    return config.kubernetes.gpus_per_node or config.processes


def port(config: LaunchConfig) -> int:
    """The port of the rendezvous."""
    return config.port or PORT


def command(job: Job, rendezvous: Sequence[str]) -> list[str]:
    """torchrun in a pod; rendezvous may refer to variables as $(NAME), nothing else can."""
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
    """Variables of the ranks: plain ones, and references to a Secret."""
    kubernetes = job.config.kubernetes
    # the root is read-only: caches go where HOME is
    fixed = {HEARTBEAT: HEARTBEAT_FILE, "HOME": "/tmp", OWN_STORES: "1"}
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
    """Keep Kubernetes from replacing $(NAME) in a command or a variable."""
    return text.replace("$", "$$")


def container(job: Job, name: str, rendezvous: Sequence[str]) -> dict[str, Any]:
    """The one container of a pod."""
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
    """Requests equal to limits: such pods are the last that a node under pressure ends."""
    kubernetes = job.config.kubernetes
    amounts = {"cpu": kubernetes.cpu, "memory": kubernetes.memory}
    if kubernetes.gpus_per_node:
        amounts[kubernetes.gpu_resource] = str(kubernetes.gpus_per_node)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def container_security() -> dict[str, Any]:
    """No privileges, and nothing to write to but the mounts."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def mounts(job: Job) -> list[dict[str, Any]]:
    """The run file, the claim, shared memory and a scratch directory."""
    return [
        {"name": "run", "mountPath": str(RUN_DIRECTORY), "readOnly": True},
        {"name": "workspace", "mountPath": job.config.kubernetes.mount_path},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "tmp", "mountPath": "/tmp"},
    ]


def volumes(job: Job) -> list[dict[str, Any]]:
    """What `mounts` mounts."""
    memory = {"medium": "Memory", "sizeLimit": job.config.kubernetes.shm}
    return [
        {"name": "run", "configMap": {"name": config_map_name(job)}},
        {"name": "workspace", "persistentVolumeClaim": {"claimName": claim_name(job)}},
        {"name": "shm", "emptyDir": memory},
        {"name": "tmp", "emptyDir": {}},
    ]


def claim_name(job: Job) -> str:
    """The volume claim: named, or made for this run."""
    return job.config.kubernetes.claim or f"{job.name}-workspace"


def placement(job: Job) -> dict[str, Any]:
    """Pod fields that say who runs the pods, where, and how they end."""
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
    """Whether Volcano's group of pods is made here; the PyTorchJob's operator makes its own."""
    kubernetes = job.config.kubernetes
    return kubernetes.queue == "volcano" and kubernetes.kind in ("job", "jobset")


def pod_template(job: Job, name: str, rendezvous: Sequence[str]) -> dict[str, Any]:
    """A pod template with everything in it; `name` is the container's."""
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
