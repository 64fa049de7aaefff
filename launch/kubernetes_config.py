"""The `[launch.kubernetes]` table of a run file."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from launch.field_types import LABEL_KEY, LabelKey, LabelValue, Line, Quantity, Subdomain, Variable

Image = Annotated[str, Field(pattern=r"^([a-zA-Z0-9][a-zA-Z0-9._:/@-]*)?$")]
Resource = Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")]
# What a TrainJob cannot say.
FROM_RUNTIME = ("priority_class", "image_pull_policy", "backoff_limit", "keep_s")


def _absolute(path: str) -> str:
    """A path without `//`, `.` and a slash at its end: another spelling is no other mount."""
    parts = PurePosixPath(path).parts[1:]
    if not parts or ".." in parts:
        raise ValueError(f"expected a folder below / without '..', found {path!r}")
    return "/" + "/".join(parts)


MountPath = Annotated[Line, Field(pattern=r"^/[^:]+$"), AfterValidator(_absolute)]


class KubernetesConfig(BaseModel):
    """How a run's pods ask for machines. Empty text leaves a choice to the cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["job", "jobset", "trainjob", "pytorchjob"] = Field(
        "job", description="A plain Indexed Job, or the object of an operator."
    )
    namespace: Annotated[Subdomain, Field(description="Namespace.")] = ""
    image: Annotated[Image, Field(description="Image with Resonance in it; must be given.")] = ""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="When nodes fetch the image."
    )
    image_pull_secret: Annotated[Subdomain, Field(description="Secret of the registry.")] = ""
    python: Annotated[Line, Field(description="Python inside the image.")] = "python3"
    runtime: Annotated[Subdomain, Field(description="ClusterTrainingRuntime of a TrainJob.")] = (
        "torch-distributed"
    )
    service_account: Annotated[Subdomain, Field(description="Service account of the pods.")] = ""
    secret: Annotated[Subdomain, Field(description="Secret with credentials of the ranks.")] = ""
    secret_keys: tuple[Variable, ...] = Field(
        ("WANDB_API_KEY",), description="Keys of the secret; each becomes a variable of its name."
    )
    claim: Annotated[
        Subdomain, Field(description="Volume claim for data and runs; must be given or sized.")
    ] = ""
    claim_size: Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?[KMGTP]i?)?$")] = Field(
        "", description="Make the claim, of this size, and keep it; empty: it exists."
    )
    storage_class: Annotated[Subdomain, Field(description="Class of a claim that is made.")] = ""
    mount_path: Annotated[
        MountPath, Field(description="Where the claim is mounted; relative paths start there.")
    ] = "/workspace"
    gpus_per_node: int = Field(
        0, ge=0, description="GPUs of each pod, one rank each; 0: launch.processes ranks on CPUs."
    )
    gpu_resource: Annotated[Resource, Field(description="Name of the GPU resource.")] = (
        "nvidia.com/gpu"
    )
    cpu: Annotated[Quantity, Field(description="CPUs of each pod.")] = "4"
    memory: Annotated[Quantity, Field(description="Memory of each pod, /dev/shm included.")] = (
        "16Gi"
    )
    shm: Annotated[Quantity, Field(description="Size of /dev/shm.")] = "2Gi"
    user: int = Field(1000, ge=1, description="User and group of the processes; never root.")
    queue: Literal["none", "kueue", "volcano"] = Field("none", description="Who admits the job.")
    queue_name: Annotated[LabelValue, Field(description="Name of the queue.")] = ""
    priority_class: Annotated[Subdomain, Field(description="Priority class.")] = ""
    node_selector: dict[LabelKey, LabelValue] = Field({}, description="Labels of the nodes.")
    tolerations: tuple[LabelKey, ...] = Field((), description="Taint keys that are tolerated.")
    topology_key: Annotated[
        str, Field(pattern=f"{LABEL_KEY}|^$", description="Node label that pods should share.")
    ] = ""
    backoff_limit: int = Field(10, ge=0, description="Pods that may fail before the job does.")
    keep_s: int = Field(604_800, ge=0, description="Seconds that an ended job is kept.")

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
        """Refuse what the API of a TrainJob has no field for."""
        for key in FROM_RUNTIME:
            if key == "priority_class" and self.queue == "kueue":
                # a label says it to Kueue
                continue
            found, expected = getattr(self, key), type(self).model_fields[key].default
            if found != expected:
                raise ValueError(
                    f"a TrainJob has the {key} of its runtime: expected {expected!r}, found "
                    f"{found!r}; set it in the ClusterTrainingRuntime, or choose another kind"
                )
