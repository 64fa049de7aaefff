"""The `[launch.kubernetes]` table of a run file."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from launch.field_types import (
    LABEL_KEY,
    LabelKey,
    LabelValue,
    Line,
    Quantity,
    Subdomain,
    Table,
    Variable,
)

Image = Annotated[str, Field(pattern=r"^([a-zA-Z0-9][a-zA-Z0-9._:/@-]*)?$")]
Resource = Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")]
# keys that a TrainJob has no field for: its runtime sets them
FROM_RUNTIME = ("priority_class", "image_pull_policy", "backoff_limit", "keep_s")


def _absolute(path: str) -> str:
    """A path without `//`, `.` and a final slash, so that each mount has one spelling."""
    parts = PurePosixPath(path).parts[1:]
    if not parts or ".." in parts:
        raise ValueError(f"expected a folder below / without '..', found {path!r}")
    return "/" + "/".join(parts)


MountPath = Annotated[Line, Field(pattern=r"^/[^:]+$"), AfterValidator(_absolute)]


class KubernetesConfig(Table):
    """Resources and placement of a run's pods; empty text leaves a choice to the cluster."""

    kind: Literal["job", "jobset", "trainjob", "pytorchjob"] = Field(
        "job", description="Kind of the job: a plain Indexed Job, or the object of an operator."
    )
    namespace: Annotated[Subdomain, Field(description="Namespace of all objects.")] = ""
    image: Annotated[Image, Field(description="Image with Resonance in it; required.")] = ""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="Policy by which nodes pull the image."
    )
    image_pull_secret: Annotated[
        Subdomain, Field(description="Secret with credentials for the image registry.")
    ] = ""
    python: Annotated[Line, Field(description="Python interpreter in the image.")] = "python3"
    runtime: Annotated[Subdomain, Field(description="ClusterTrainingRuntime of a TrainJob.")] = (
        "torch-distributed"
    )
    service_account: Annotated[Subdomain, Field(description="Service account of the pods.")] = ""
    secret: Annotated[Subdomain, Field(description="Secret with credentials for the ranks.")] = ""
    secret_keys: tuple[Variable, ...] = Field(
        ("WANDB_API_KEY",),
        description="Keys of the secret; each becomes an environment variable of the same name.",
    )
    claim: Annotated[
        Subdomain,
        Field(description="Volume claim for data and runs; required unless claim_size is set."),
    ] = ""
    claim_size: Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?[KMGTP]i?)?$")] = Field(
        "", description="Size of a volume claim to create and keep; empty for one that exists."
    )
    storage_class: Annotated[
        Subdomain, Field(description="Storage class of a claim that is created.")
    ] = ""
    mount_path: Annotated[
        MountPath, Field(description="Mount point of the claim; relative paths start there.")
    ] = "/workspace"
    gpus_per_node: int = Field(
        0, ge=0, description="GPUs per pod, one rank each; 0 for launch.processes ranks on CPUs."
    )
    gpu_resource: Annotated[Resource, Field(description="Resource name of the GPUs.")] = (
        "nvidia.com/gpu"
    )
    cpu: Annotated[Quantity, Field(description="CPUs per pod.")] = "4"
    memory: Annotated[Quantity, Field(description="Memory per pod, /dev/shm included.")] = "16Gi"
    shm: Annotated[Quantity, Field(description="Size of /dev/shm.")] = "2Gi"
    user: int = Field(1000, ge=1, description="User and group ID of the processes; never root.")
    queue: Literal["none", "kueue", "volcano"] = Field(
        "none", description="Queueing system that admits the job."
    )
    queue_name: Annotated[LabelValue, Field(description="Name of the queue.")] = ""
    priority_class: Annotated[Subdomain, Field(description="Priority class of the pods.")] = ""
    node_selector: dict[LabelKey, LabelValue] = Field(
        {}, description="Labels that nodes must have."
    )
    tolerations: tuple[LabelKey, ...] = Field((), description="Keys of tolerated taints.")
    topology_key: Annotated[
        str, Field(pattern=f"{LABEL_KEY}|^$", description="Node label whose value all pods share.")
    ] = ""
    backoff_limit: int = Field(
        10, ge=0, description="Number of pods that may fail before the job fails."
    )
    keep_s: int = Field(604_800, ge=0, description="Seconds that a finished job is kept.")

    @model_validator(mode="after")
    def _fits_together(self) -> "KubernetesConfig":
        if (self.queue == "none") != (self.queue_name == ""):
            raise ValueError(
                "queue and queue_name belong together: expected both or neither, found "
                f"queue={self.queue!r}, queue_name={self.queue_name!r}"
            )
        if self.queue == "volcano" and self.kind == "trainjob":
            raise ValueError(
                "a TrainJob is queued by its runtime: expected queue 'none' or 'kueue', found "
                "'volcano'"
            )
        if self.kind == "trainjob":
            self._fits_trainjob()
        if any(part for part in self.namespace.split(".")[1:]) or len(self.namespace) > 63:
            raise ValueError(
                f"namespace: expected at most 63 letters, digits and hyphens, found "
                f"{self.namespace!r}"
            )
        return self

    def _fits_trainjob(self) -> None:
        """Reject keys that the API of a TrainJob has no field for."""
        for key in FROM_RUNTIME:
            if key == "priority_class" and self.queue == "kueue":
                # Kueue reads it from a label
                continue
            value, default = getattr(self, key), type(self).model_fields[key].default
            if value != default:
                raise ValueError(
                    f"a TrainJob has the {key} of its runtime: expected {default!r}, found "
                    f"{value!r}; set it in the ClusterTrainingRuntime, or choose another kind"
                )
