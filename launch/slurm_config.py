"""The `[launch.slurm]` table of a run file."""

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from launch.field_types import HostPattern, Line, SlurmList, SlurmName, Table

TIME_LIMIT = re.compile(
    r"(?:(?P<days>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?"
    r"|(?P<h>\d+):(?P<hm>\d+):(?P<hs>\d+)|(?P<m>\d+)(?::(?P<s>\d+))?)"
)
Mount = Annotated[Line, Field(pattern=r"^/[^:,]*:/[^:,]*(:r[ow])?$")]


def time_limit_seconds(text: str) -> int:
    """Seconds of a Slurm time limit: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        ValueError: The text has none of these forms, or the limit is zero.
    """
    match = TIME_LIMIT.fullmatch(text)
    part = {key: int(value or 0) for key, value in match.groupdict().items()} if match else {}
    seconds = 0
    if part:
        hours, minutes = part["dh"] + part["h"], part["dm"] + part["hm"] + part["m"]
        seconds = ((part["days"] * 24 + hours) * 60 + minutes) * 60
        seconds += part["ds"] + part["hs"] + part["s"]
    if seconds <= 0:
        raise ValueError(
            f"expected a time limit above zero, as M, M:S, H:M:S, D-H, D-H:M or D-H:M:S, "
            f"found {text!r}"
        )
    return seconds


class SlurmConfig(Table):
    """Resources and placement of a run's batch job; empty text leaves a choice to the cluster."""

    partition: Annotated[SlurmName, Field(description="Partition of the job.")] = ""
    account: Annotated[SlurmName, Field(description="Account that is charged.")] = ""
    qos: Annotated[SlurmName, Field(description="Quality of service of the job.")] = ""
    reservation: Annotated[SlurmName, Field(description="Reservation of the job.")] = ""
    constraint: Annotated[
        SlurmList, Field(description="Required node features, such as 'a100&nvlink'.")
    ] = ""
    time_limit: str = Field("1:00:00", description="Time limit of one job, in Slurm's format.")
    deadline: str = Field(
        "",
        description="Latest end, as 2027-01-31T18:00:00; Slurm removes a job that cannot meet it.",
    )
    gpus_per_node: int = Field(
        0, ge=0, description="GPUs per node, one rank each; 0 for launch.processes ranks on CPUs."
    )
    gpu_type: Annotated[SlurmName, Field(description="Type of GPU, such as 'h100'.")] = ""
    cpus_per_node: int = Field(0, ge=0, description="CPUs per node; 0 for ranks x launch.threads.")
    memory: str = Field(
        "",
        pattern=r"^([0-9]+[KMGT]?)?$",
        description="Memory per node, such as 64G; 0 for all.",
    )
    exclusive: bool = Field(False, description="Whether no other job may run on the nodes.")
    exclude: tuple[HostPattern, ...] = Field((), description="Nodes that are never used.")
    modules: tuple[Line, ...] = Field((), description="Environment modules to load.")
    max_requeues: int = Field(
        20, ge=0, description="Maximum number of times that a job requeues itself."
    )
    max_failures: int = Field(
        3, ge=0, description="Maximum number of failed attempts after which a job starts again."
    )
    exclude_after: int = Field(
        2, ge=1, description="Number of failures that a node causes before it is excluded."
    )
    array_limit: int = Field(
        0, ge=0, description="Number of sweep tasks that run at the same time; 0 for all."
    )
    container: Literal["none", "pyxis", "apptainer"] = Field(
        "none", description="Container runtime of the ranks."
    )
    image: Annotated[Line, Field(description="Image file or reference of the container.")] = ""
    mounts: tuple[Mount, ...] = Field(
        (), description="Mounts of the container, as HOST:INSIDE[:ro]."
    )
    container_python: Annotated[Line, Field(description="Python interpreter in the container.")] = (
        "python3"
    )

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
                f"gpu_type is {self.gpu_type!r} and gpus_per_node 0, which requests no GPU: "
                "expected both or neither"
            )
        if (self.container == "none") != (self.image == ""):
            raise ValueError(
                "container and image belong together: expected both or neither, found "
                f"container={self.container!r}, image={self.image!r}"
            )
        return self
