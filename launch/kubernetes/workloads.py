"""Kinds of Kubernetes object that can run the pods."""

from collections.abc import Callable

from launch.job import Job
from launch.kubernetes import pod
from launch.kubernetes.validation import Manifest
from launch.torchrun import GIVE_UP_STATUS, NODE_INDEX, REQUEUE_STATUS

# exit status of a wrong call, argparse's and our own: a retry would fail the same way
USAGE_STATUS = 2
CONTAINER = "ranks"
# the Job controller sets the variable: in its own Jobs, those of a JobSet and those of a TrainJob
INDEX = f"{NODE_INDEX}=JOB_COMPLETION_INDEX"
# role of the pods of a JobSet and of a TrainJob; Kubeflow's runtimes require this name
ROLE = "node"


def indexed_job(job: Job) -> list[Manifest]:
    """A plain Indexed Job, and the headless Service through which its pods find one another."""
    service: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": job.name},
        "spec": {
            "clusterIP": "None",
            # the rendezvous happens before any pod is ready
            "publishNotReadyAddresses": True,
            "selector": pod.labels(job),
            "ports": [{"name": "rendezvous", "port": pod.port(job.config)}],
        },
    }
    spec = _job_spec(job, f"{job.name}-0.{job.name}")
    spec["template"]["spec"]["subdomain"] = job.name
    spec["ttlSecondsAfterFinished"] = job.config.kubernetes.keep_s
    return [
        service,
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": _metadata(job),
            "spec": {**_suspended(job), **spec},
        },
    ]


def jobset(job: Job) -> list[Manifest]:
    """A JobSet: its controller creates the Service and restarts all pods together."""
    spec = {
        **_suspended(job),
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "failurePolicy": {
            "maxRestarts": job.config.kubernetes.backoff_limit,
            # a job that failed by the pods' own policy is not restarted
            "rules": [
                {
                    "name": "giveUp",
                    "action": "FailJobSet",
                    "onJobFailureReasons": ["PodFailurePolicy"],
                }
            ],
        },
        "ttlSecondsAfterFinished": job.config.kubernetes.keep_s,
        "replicatedJobs": [
            {
                "name": ROLE,
                "replicas": 1,
                "template": {"spec": _job_spec(job, f"{job.name}-{ROLE}-0-0.{job.name}")},
            }
        ],
    }
    return [_object(job, "jobset.x-k8s.io/v1alpha2", "JobSet", spec)]


def trainjob(job: Job) -> list[Manifest]:
    """A Kubeflow TrainJob: the runtime's pods, patched with our mounts and limits.

    Its API cannot patch probes, the failure policy of pods, or whether they get a token.
    """
    kubernetes = job.config.kubernetes
    # the operator sets the address of the rendezvous; TrainJobs cannot set a working directory
    rendezvous = [
        f"--nnodes={job.config.nnodes}",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=$(PET_MASTER_ADDR):$(PET_MASTER_PORT)",
        f"--rdzv-id={job.name}",
        INDEX,
    ]
    chdir = ["env", f"--chdir={pod.escape(kubernetes.mount_path)}"]
    pods = {
        **pod.placement(job),
        "containers": [
            {
                "name": ROLE,
                "volumeMounts": pod.mounts(job),
                "securityContext": pod.container_security(),
            }
        ],
        "volumes": pod.volumes(job),
    }
    metadata = {"labels": pod.labels(job), "annotations": pod.annotations(job)}
    template = {"metadata": metadata, "spec": pods}
    patch = {"name": ROLE, "template": {"spec": {"template": template}}}
    spec = {
        **_suspended(job),
        "runtimeRef": {
            "apiGroup": "trainer.kubeflow.org",
            "kind": "ClusterTrainingRuntime",
            "name": kubernetes.runtime,
        },
        "trainer": {
            "image": kubernetes.image,
            "command": [*chdir, *pod.command(job, rendezvous)],
            "env": pod.environment(job),
            "numNodes": job.config.nodes,
            "numProcPerNode": pod.ranks_per_pod(job.config),
            "resourcesPerNode": pod.resources(job),
        },
        "runtimePatches": [
            {
                "manager": "resonance.local/launch",
                "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [patch]}}},
            }
        ],
    }
    return [_object(job, "trainer.kubeflow.org/v1alpha1", "TrainJob", spec)]


def pytorchjob(job: Job) -> list[Manifest]:
    """A PyTorchJob of Kubeflow's first training operator.

    Its pods are restarted after every failure: the operator's ExitCode policy treats 1 to 127 as
    final, including REQUEUE_STATUS.
    """
    config, kubernetes = job.config, job.config.kubernetes
    # the operator sets torchrun's PET_ variables: machines, rendezvous; the first pod has the host
    # name of the rendezvous, which torchrun compares without a look-up
    template = pod.pod_template(job, "pytorch", [])
    policy: Manifest = {
        "backoffLimit": kubernetes.backoff_limit,
        "cleanPodPolicy": "None",
        "ttlSecondsAfterFinished": kubernetes.keep_s,
        **_suspended(job),
    }
    if kubernetes.queue == "volcano":
        minimum = config.min_nodes or config.nodes
        policy["schedulingPolicy"] = {"minAvailable": minimum, "queue": kubernetes.queue_name}
    spec = {
        "nprocPerNode": str(pod.ranks_per_pod(config)),
        "elasticPolicy": {
            "minReplicas": config.min_nodes or config.nodes,
            "maxReplicas": config.nodes,
            "maxRestarts": config.max_restarts,
            "rdzvBackend": "c10d",
            "rdzvPort": pod.port(config),
        },
        "runPolicy": policy,
        "pytorchReplicaSpecs": {
            "Worker": {"replicas": config.nodes, "restartPolicy": "OnFailure", "template": template}
        },
    }
    return [_object(job, "kubeflow.org/v1", "PyTorchJob", spec)]


JOBS: dict[str, Callable[[Job], list[Manifest]]] = {
    "job": indexed_job,
    "jobset": jobset,
    "trainjob": trainjob,
    "pytorchjob": pytorchjob,
}


def _job_spec(job: Job, first_host: str) -> Manifest:
    """The spec of a Job, which is the same inside a JobSet."""
    config, kubernetes = job.config, job.config.kubernetes
    rendezvous = [
        f"--nnodes={config.nnodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={first_host}:{pod.port(config)}",
        f"--rdzv-id={job.name}",
        INDEX,
    ]
    template = pod.pod_template(job, CONTAINER, rendezvous)
    template["spec"]["restartPolicy"] = "Never"
    # pods that return too late find no rendezvous: the run ends when the first pod ends
    done: Manifest = {"successPolicy": {"rules": [{"succeededIndexes": "0"}]}}
    return {
        **(done if config.is_elastic else {}),
        "completions": config.nodes,
        "parallelism": config.nodes,
        "completionMode": "Indexed",
        "backoffLimit": kubernetes.backoff_limit,
        "podFailurePolicy": {
            "rules": [
                _rule("FailJob", USAGE_STATUS, GIVE_UP_STATUS),
                # saved after a request to stop: a new pod resumes, and no failure is counted
                _rule("Ignore", REQUEUE_STATUS),
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
            ]
        },
        "template": template,
    }


def _rule(action: str, *statuses: int) -> Manifest:
    codes = {"containerName": CONTAINER, "operator": "In", "values": list(statuses)}
    return {"action": action, "onExitCodes": codes}


def _object(job: Job, version: str, kind: str, spec: Manifest) -> Manifest:
    return {"apiVersion": version, "kind": kind, "metadata": _metadata(job), "spec": spec}


def _metadata(job: Job) -> Manifest:
    kubernetes = job.config.kubernetes
    metadata: Manifest = {"name": job.name}
    if kubernetes.queue == "kueue":
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": kubernetes.queue_name}
        if kubernetes.priority_class:
            metadata["labels"]["kueue.x-k8s.io/priority-class"] = kubernetes.priority_class
    return metadata


def _suspended(job: Job) -> Manifest:
    """Field that lets Kueue start the job: it must be created suspended."""
    return {"suspend": True} if job.config.kubernetes.queue == "kueue" else {}
