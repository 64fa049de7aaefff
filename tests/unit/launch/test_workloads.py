"""Manifests keep Kubernetes' schemas, its unwritten rules, and the operators' models."""

import copy
import json
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import kubernetes.client.models
import kubernetes_validate
import pytest
from kubeflow.training import models as training
from kubeflow_trainer_api import models as trainer
from kubernetes.client import ApiClient

from launch.errors import LaunchError
from launch.field_types import quantity
from launch.kubernetes.render import manifests
from launch.kubernetes.validation import problems
from tests.unit.launch.jobs import kubernetes_jobs, make_job

# pod failure policies are stable since 1.31
VERSIONS = ("1.31", "1.34", "1.37")
CUSTOM = ("PodGroup", "JobSet", "TrainJob", "PyTorchJob")
Manifest = dict[str, Any]


def find(name: str, kind: str) -> Manifest:
    (document,) = [one for one in manifests(kubernetes_jobs()[name]) if one["kind"] == kind]
    return document


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", kubernetes_jobs())
def test_schemas(name: str, version: str) -> None:
    for document in manifests(kubernetes_jobs()[name]):
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_jobs_inside_a_jobset_keep_the_schema(version: str) -> None:
    (replicated,) = find("jobset.yaml", "JobSet")["spec"]["replicatedJobs"]
    inner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "inner"},
        **replicated["template"],
    }
    kubernetes_validate.validate(inner, version, strict=True)


def test_schemas_notice_a_typing_error() -> None:
    document = find("job.yaml", "Job")
    document["spec"]["completion"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def train_job(document: Manifest) -> Any:
    return trainer.TrainerV1alpha1TrainJob.from_dict(document).to_dict()  # type: ignore[union-attr]


def job_set(document: Manifest) -> Any:
    return trainer.JobsetV1alpha2JobSet.from_dict(document).to_dict()  # type: ignore[union-attr]


def pytorch_job(document: Manifest) -> Any:
    class Response:
        data = json.dumps(document)

    # the client looks its classes up in its own package
    names = [name for name in dir(training) if name.startswith("KubeflowOrgV1")]
    for name in names:
        setattr(kubernetes.client.models, name, getattr(training, name))
    client = ApiClient()
    model = client.deserialize(Response(), "KubeflowOrgV1PyTorchJob")
    return client.sanitize_for_serialization(model)


OPERATORS = [
    ("trainjob.yaml", "TrainJob", train_job),
    ("jobset.yaml", "JobSet", job_set),
    ("pytorchjob.yaml", "PyTorchJob", pytorch_job),
]
RoundTrip = Callable[[Manifest], Any]


@pytest.mark.parametrize(("name", "kind", "round_trip"), OPERATORS)
def test_operators_models_know_every_field(name: str, kind: str, round_trip: RoundTrip) -> None:
    document = find(name, kind)
    assert round_trip(copy.deepcopy(document)) == document


@pytest.mark.parametrize(("name", "kind", "round_trip"), OPERATORS)
def test_operators_models_drop_a_field_of_another_name(
    name: str, kind: str, round_trip: RoundTrip
) -> None:
    document = find(name, kind)
    document["spec"]["suspended"] = True
    assert round_trip(copy.deepcopy(document)) != document


def container(job: Manifest) -> Manifest:
    found: Manifest = pod(job)["containers"][0]
    return found


def pod(job: Manifest) -> Manifest:
    found: Manifest = job["spec"]["template"]["spec"]
    return found


# What the schemas let through and the API server refuses: how to break a job, and what is said.
BREAKS: dict[str, tuple[Callable[[Manifest], object], str]] = {
    "restart policy": (lambda job: pod(job).update(restartPolicy="Always"), "restartPolicy"),
    "quantity": (lambda job: container(job)["resources"]["limits"].update(cpu="250mm"), "250mm"),
    "container name": (lambda job: container(job).update(name="My_Ranks"), "My_Ranks"),
    "mounted twice": (
        lambda job: container(job)["volumeMounts"].append({"name": "tmp", "mountPath": "/tmp"}),
        "mounted twice",
    ),
    "unknown volume": (
        lambda job: container(job)["volumeMounts"].append({"name": "x", "mountPath": "/x"}),
        "names no volume",
    ),
    "more than the limit": (
        lambda job: container(job)["resources"]["requests"].update(memory="17Gi"),
        "more than its limit",
    ),
    "pull policy": (lambda job: container(job).update(imagePullPolicy="Sometimes"), "Sometimes"),
    "negative": (lambda job: job["spec"].update(parallelism=-1), "parallelism is -1"),
    "label": (lambda job: job["metadata"]["labels"].update({"a b": "c"}), "label's key"),
    "label value": (lambda job: job["metadata"]["labels"].update(a="b c"), "label's value"),
    "completion mode": (lambda job: job["spec"].update(completionMode="Indexedd"), "Indexedd"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_rules_that_no_schema_holds(name: str) -> None:
    job = find("job.yaml", "Job")
    assert problems(job) == []
    change, words = BREAKS[name]
    change(job)
    (problem,) = problems(job)
    assert words in problem


def test_rules_hold_inside_other_kinds() -> None:
    document = find("pytorchjob.yaml", "PyTorchJob")
    worker = document["spec"]["pytorchReplicaSpecs"]["Worker"]
    worker["template"]["spec"]["containers"][0]["name"] = "A"
    assert len(problems(document)) == 1


@pytest.mark.parametrize(
    ("text", "expected"), [("1", 1), ("500m", 0.5), ("2k", 2000), ("1Gi", 2**30), ("1.5", 1.5)]
)
def test_quantity(text: str, expected: float) -> None:
    assert float(quantity(text)) == expected


@pytest.mark.parametrize("name", kubernetes_jobs())
def test_pods_are_confined(name: str) -> None:
    text = json.dumps(manifests(kubernetes_jobs()[name]))
    assert '"readOnlyRootFilesystem": true' in text
    assert '"runAsNonRoot": true' in text
    assert '"allowPrivilegeEscalation": false' in text
    assert '"terminationGracePeriodSeconds"' in text
    assert '"mountPath": "/dev/shm"' in text


def test_grace_fits_the_time_for_saving() -> None:
    job = find("job-kueue.yaml", "Job")
    assert pod(job)["terminationGracePeriodSeconds"] == 600


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"claim": "data"}, "image is empty"),
        ({"image": "resonance:1"}, "claim is empty"),
    ],
)
def test_missing_image_and_claim(table: Manifest, words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        manifests(make_job(kubernetes=table))


def test_sweep_and_long_names_are_refused() -> None:
    table = {"image": "resonance:1", "claim": "data", "kind": "jobset"}
    with pytest.raises(LaunchError, match="several runs"):
        manifests(make_job(2, kubernetes=table))
    with pytest.raises(LaunchError, match="at most 48 characters"):
        manifests(make_job(name="a" * 49, kubernetes=table))


@pytest.mark.parametrize("path", ["/tmp/", "/dev/shm/.", "//etc/resonance"])
def test_mount_over_another(path: str) -> None:
    table = {"image": "resonance:1", "claim": "data", "mount_path": path}
    job = make_job(kubernetes=table)
    with pytest.raises(LaunchError, match="is mounted twice"):
        manifests(job._replace(output=PurePosixPath(job.config.kubernetes.mount_path, "run")))


@pytest.mark.parametrize("output", ["/home/me/exp", "/workspace/../home/me", "/workspaces/run"])
def test_output_where_pods_cannot_write(output: str) -> None:
    job = make_job(kubernetes={"image": "resonance:1", "claim": "data"})
    with pytest.raises(LaunchError, match="expected a path below /workspace"):
        manifests(job._replace(output=PurePosixPath(output)))


def test_status_78_ends_a_jobset() -> None:
    """Otherwise its controller starts all pods again, maxRestarts times."""
    policy = find("jobset.yaml", "JobSet")["spec"]["failurePolicy"]
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


def test_kueue_knows_the_priority_of_a_trainjob() -> None:
    table = {"image": "resonance:1", "claim": "data", "kind": "trainjob", "priority_class": "high"}
    (*_, last) = manifests(make_job(kubernetes={**table, "queue": "kueue", "queue_name": "lab"}))
    assert last["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"


def test_run_file_that_no_config_map_holds() -> None:
    job = make_job(kubernetes={"image": "resonance:1", "claim": "data"})
    with pytest.raises(LaunchError, match="ConfigMap"):
        manifests(job._replace(run_files=["#" * 1_100_000]))
