"""The `[launch.kubernetes]` table of a run file."""

import re
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from launch.field_types import (
    DNS_LABEL,
    DNS_SUBDOMAIN,
    DOMAIN_NAME,
    LABEL_KEY,
    LabelKey,
    LabelValue,
    Line,
    Subdomain,
    Table,
    Variable,
    form,
    quantity,
)

# HOST[:PORT]/PATH[:TAG][@DIGEST], of which a path is enough
IMAGE = (
    r"([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@[a-z0-9+._-]+:[A-Fa-f0-9]+)?"
)
Image = Annotated[
    str, form(IMAGE, "an image such as 'registry.example.org/lab/resonance:1'", empty=True)
]
# the name of an object, and for Kueue a label's value, too
QueueName = Annotated[
    str,
    form(
        rf"(?=.{{1,63}}$){DNS_SUBDOMAIN}",
        "a queue's name of at most 63 lower case letters, digits, '-' and '.'",
        empty=True,
    ),
]
Resource = Annotated[
    str, form(DOMAIN_NAME, "a resource of the form DOMAIN/NAME, such as 'nvidia.com/gpu'")
]
MIN_CPUS = Decimal("0.1")
# keys that a TrainJob has no field for: its runtime sets them
FROM_RUNTIME = ("priority_class", "image_pull_policy", "backoff_limit", "keep_s")


def _absolute(path: str) -> str:
    """A path without `//`, `.` and a final slash, so that each mount has one spelling."""
    parts = PurePosixPath(path).parts[1:]
    if not parts or ".." in parts:
        raise ValueError(f"expected a folder below / without '..', found {path!r}")
    return "/" + "/".join(parts)


def _cpus(text: str) -> str:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?m?", text, re.ASCII) or quantity(text) < MIN_CPUS:
        raise ValueError(
            f"expected CPUs such as 4, 2.5 or 500m (thousandths), at least 100m, found {text!r}"
        )
    return text


def at_least(least: str, *, empty: bool = False) -> AfterValidator:
    """Validator of an amount of bytes, which has a minimum below which no run works.

    Args:
        least: The minimum, as a quantity.
        empty: Whether the text may also be empty.
    """

    def check(text: str) -> str:
        try:
            amount = quantity(text)
        except ValueError:
            amount = None
        if (amount is None or amount < quantity(least)) and (text or not empty):
            value = "" if amount is None else f", which is {amount.normalize():f} bytes"
            raise ValueError(
                f"expected at least {least}, in bytes with a unit such as Mi or Gi (512Mi, 16Gi), "
                f"found {text!r}{value}"
            )
        return text

    return AfterValidator(check)


Cpus = Annotated[str, AfterValidator(_cpus)]
Memory = Annotated[str, at_least("64Mi")]
SharedMemory = Annotated[str, at_least("1Mi")]
ClaimSize = Annotated[str, at_least("1Mi", empty=True)]
MountPath = Annotated[
    Line, form("/[^:]+", "an absolute path without ':'"), AfterValidator(_absolute)
]


class KubernetesConfig(Table):
    """Resources and placement of a run's pods; empty text leaves a choice to the cluster."""

    kind: Literal["job", "jobset", "trainjob", "pytorchjob"] = Field(
        "job", description="Kind of the job: a plain Indexed Job, or the object of an operator."
    )
    namespace: Annotated[
        str,
        form(DNS_LABEL, "at most 63 lower case letters, digits and hyphens", empty=True),
        Field(description="Namespace of all objects."),
    ] = ""
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
    claim_size: Annotated[
        ClaimSize,
        Field(description="Size of a volume claim to create and keep; empty for one that exists."),
    ] = ""
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
    cpu: Annotated[Cpus, Field(description="CPUs per pod.")] = "4"
    memory: Annotated[Memory, Field(description="Memory per pod, /dev/shm included.")] = "16Gi"
    shm: Annotated[SharedMemory, Field(description="Size of /dev/shm.")] = "2Gi"
    user: int = Field(1000, ge=1, description="User and group ID of the processes; never root.")
    queue: Literal["none", "kueue", "volcano"] = Field(
        "none", description="Queueing system that admits the job."
    )
    queue_name: Annotated[QueueName, Field(description="Name of the queue.")] = ""
    priority_class: Annotated[Subdomain, Field(description="Priority class of the pods.")] = ""
    node_selector: dict[LabelKey, LabelValue] = Field(
        {}, description="Labels that nodes must have."
    )
    tolerations: tuple[LabelKey, ...] = Field((), description="Keys of tolerated taints.")
    topology_key: Annotated[
        str,
        form(LABEL_KEY, "a node label's key, such as 'topology.kubernetes.io/zone'", empty=True),
        Field(description="Node label whose value all pods share."),
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
        if quantity(self.shm) > quantity(self.memory):
            raise ValueError(
                f"memory includes /dev/shm: expected shm of at most {self.memory!r}, found "
                f"{self.shm!r}"
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
