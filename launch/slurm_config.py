"""The `[launch.slurm]` table of a run file."""

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from launch.field_types import HostPattern, Line, SlurmList, SlurmName

TIME_LIMIT = re.compile(
    r"(?:(?P<days>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?"
    r"|(?P<h>\d+):(?P<hm>\d+):(?P<hs>\d+)|(?P<m>\d+)(?::(?P<s>\d+))?)"
)
Mount = Annotated[Line, Field(pattern=r"^/[^:,]*:/[^:,]*(:r[ow])?$")]


def time_limit_seconds(text: str) -> int:
    """Seconds of a Slurm time limit: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        ValueError: It has none of these forms, or is zero.
    """
    match = TIME_LIMIT.fullmatch(text)
    part = {key: int(value or 0) for key, value in match.groupdict().items()} if match else {}
    seconds = 0
    if part:
        hours, minutes = part["dh"] + part["h"], part["dm"] + part["hm"] + part["m"]
        rest = part["ds"] + part["hs"] + part["s"]
        seconds = ((part["days"] * 24 + hours) * 60 + minutes) * 60 + rest
    if seconds <= 0:
        raise ValueError(
            f"expected a time limit after now, as M, M:S, H:M:S, D-H, D-H:M or D-H:M:S, "
            f"found {text!r}"
        )
    return seconds


class SlurmConfig(BaseModel):
    """How a run's batch job asks for machines. Empty text leaves a choice to the cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: Annotated[SlurmName, Field(description="Partition.")] = ""
    account: Annotated[SlurmName, Field(description="Account that is charged.")] = ""
    qos: Annotated[SlurmName, Field(description="Quality of service.")] = ""
    reservation: Annotated[SlurmName, Field(description="Reservation.")] = ""
    constraint: Annotated[SlurmList, Field(description="Node features, such as 'a100&nvlink'.")] = (
        ""
    )
    time_limit: str = Field("1:00:00", description="Longest time of one job, as Slurm writes it.")
    deadline: str = Field(
        "", description="Latest end, as 2027-01-31T18:00:00; Slurm drops a job that cannot make it."
    )
    gpus_per_node: int = Field(
        0, ge=0, description="GPUs of each node, one rank each; 0: launch.processes ranks on CPUs."
    )
    gpu_type: Annotated[SlurmName, Field(description="Kind of GPU, such as 'h100'.")] = ""
    cpus_per_node: int = Field(0, ge=0, description="CPUs of each node; 0: ranks x launch.threads.")
    memory: str = Field(
        "",
        pattern=r"^([0-9]+[KMGT]?)?$",
        description="Memory of each node, such as 64G; 0 for all.",
    )
    exclusive: bool = Field(False, description="Share no node with other jobs.")
    exclude: tuple[HostPattern, ...] = Field((), description="Nodes never to use.")
    modules: tuple[Line, ...] = Field((), description="Environment modules to load.")
    max_requeues: int = Field(
        20, ge=0, description="Times that a job goes back into the queue by itself."
    )
    max_failures: int = Field(
        3, ge=0, description="Of these, how often after a failure rather than on request."
    )
    exclude_after: int = Field(
        2, ge=1, description="Failures of a rank on one node after which the node is left out."
    )
    array_limit: int = Field(0, ge=0, description="Tasks of a sweep at a time; 0: all.")
    container: Literal["none", "pyxis", "apptainer"] = Field(
        "none", description="What runs the ranks inside an image."
    )
    image: Annotated[Line, Field(description="Image file or reference.")] = ""
    mounts: tuple[Mount, ...] = Field((), description="Mounts of the container, HOST:INSIDE[:ro].")
    container_python: Annotated[Line, Field(description="Python inside the container.")] = "python3"

    @model_validator(mode="after")
    def _is_possible(self) -> "SlurmConfig":
        time_limit_seconds(self.time_limit)
        if self.deadline:
            try:
                datetime.strptime(self.deadline, "%Y-%m-%dT%H:%M:%S")
            except ValueError:
                raise ValueError(
                    f"deadline: expected a time as 2027-01-31T18:00:00, found {self.deadline!r}"
                ) from None
        if self.gpu_type and not self.gpus_per_node:
            raise ValueError(
                f"gpu_type is {self.gpu_type!r} and gpus_per_node 0, which asks for no GPU: "
                "expected both or neither"
            )
        if (self.container == "none") != (self.image == ""):
            raise ValueError(
                "container and image belong together: expected both or neither, found "
                f"container={self.container!r}, image={self.image!r}"
            )
        return self
