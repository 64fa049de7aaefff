"""The `[launch.slurm]` table of a run file."""

import math
import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from launch.field_types import Line, Table, form
from launch.slurm_options import FreeOptions

TIME_LIMIT = re.compile(
    r"(?:(?P<days>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?"
    r"|(?P<h>\d+):(?P<hm>\d+):(?P<hs>\d+)|(?P<m>\d+)(?::(?P<s>\d+))?)",
    re.ASCII,
)
UNLIMITED = ("unlimited", "infinite", "-1")
DEADLINES = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
# nothing that a shell interprets, no quotes and no spaces
WORD = r"[A-Za-z0-9_.:=@%+/~-]+"
Partitions = Annotated[
    str,
    form(rf"{WORD}(,{WORD})*", "partitions such as 'gpu' or 'gpu,gpu-large'", empty=True),
]
Name = Annotated[str, form(rf"{WORD}(,{WORD})*", "a name without spaces and quotes", empty=True)]
Constraint = Annotated[
    str,
    form(
        rf"(?:{WORD}|[,&|()*!\[\]])+",
        "node features such as 'a100&nvlink' or 'GPU_MEM:80GB'",
        empty=True,
    ),
]
Memory = Annotated[
    str,
    form(
        "[0-9]+([KMGTkmgt][Bb]?)?",
        "a whole number of megabytes, or one with K, M, G or T such as 64G or 64GB",
        empty=True,
    ),
]
Resources = Annotated[
    str,
    form(
        rf"{WORD}(,{WORD})*",
        "resources as NAME[:TYPE][:COUNT], such as 'gpu:a100:4' or 'gpu:4,lscratch:100G'",
        empty=True,
    ),
]
Licenses = Annotated[
    str,
    form(rf"{WORD}([,|;]{WORD})*", "licenses as NAME[:COUNT], such as 'fluent:2'", empty=True),
]
HostPattern = Annotated[
    str,
    form(r"[A-Za-z0-9]([A-Za-z0-9_.,\[\]-]*[A-Za-z0-9\]])?", "nodes such as 'n7' or 'n[1-4,9]'"),
]
Mount = Annotated[
    Line, form("/[^:,]*:/[^:,]*(:r[ow])?", "a mount as /HOST:/INSIDE or /HOST:/INSIDE:ro")
]


def time_limit_seconds(text: str) -> float:
    """Seconds of a Slurm time limit: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S; infinite if unlimited.

    Raises:
        ValueError: The text has none of these forms, or the limit is zero.
    """
    if text.lower() in UNLIMITED:
        return math.inf
    match = TIME_LIMIT.fullmatch(text)
    part = {key: int(value or 0) for key, value in match.groupdict().items()} if match else {}
    seconds = 0
    if part:
        hours, minutes = part["dh"] + part["h"], part["dm"] + part["hm"] + part["m"]
        seconds = ((part["days"] * 24 + hours) * 60 + minutes) * 60
        seconds += part["ds"] + part["hs"] + part["s"]
    if seconds <= 0:
        raise ValueError(
            f"expected a time limit above zero, as M, M:S, H:M:S, D-H, D-H:M, D-H:M:S or "
            f"UNLIMITED, found {text!r}"
        )
    return seconds


def deadline_time(text: str) -> datetime:
    """The time of a deadline.

    Raises:
        ValueError: The text is no time.
    """
    for form_of_time in DEADLINES:
        try:
            return datetime.strptime(text, form_of_time)
        except ValueError:
            continue
    raise ValueError(
        f"expected a time as 2027-01-31T18:00:00, 2027-01-31T18:00 or 2027-01-31, found {text!r}"
    )


def gpus_of(gres: str) -> int:
    """Number of GPUs in a list of generic resources: `gpu`, `gpu:COUNT` or `gpu:TYPE:COUNT`.

    Raises:
        ValueError: The number of GPUs is not a number.
    """
    gpus = 0
    for resource in gres.removeprefix("gres/").split(","):
        name, *rest = resource.removeprefix("gres:").split(":")
        if name == "gpu":
            count = rest[-1] if rest and rest[-1][0].isdigit() else "1"
            if not re.fullmatch("[0-9]+", count, re.ASCII):
                raise ValueError(
                    f"gres: expected a number of GPUs such as gpu:4, found {resource!r}"
                )
            gpus += int(count)
    return gpus


class SlurmConfig(Table):
    """Resources and placement of a run's batch job; empty text leaves a choice to the cluster."""

    partition: Annotated[
        Partitions, Field(description="Partition of the job, or several with commas.")
    ] = ""
    account: Annotated[Name, Field(description="Account that is charged.")] = ""
    qos: Annotated[Name, Field(description="Quality of service of the job.")] = ""
    reservation: Annotated[Name, Field(description="Reservation of the job.")] = ""
    constraint: Annotated[
        Constraint, Field(description="Required node features, such as 'a100&nvlink'.")
    ] = ""
    time_limit: str = Field(
        "1:00:00", description="Time limit of one job, in Slurm's format; UNLIMITED for none."
    )
    deadline: str = Field(
        "",
        description="Latest end, as 2027-01-31T18:00:00; Slurm removes a job that cannot meet it.",
    )
    gpus_per_node: int = Field(
        0,
        ge=0,
        description="GPUs per node, one rank each; 0 for those of gres, or else "
        "launch.processes ranks on CPUs.",
    )
    gpu_type: Annotated[Name, Field(description="Type of GPU, such as 'h100'.")] = ""
    gres: Annotated[
        Resources,
        Field(description="Generic resources per node, such as 'gpu:a100:4' or 'lscratch:100G'."),
    ] = ""
    cpus_per_node: int = Field(0, ge=0, description="CPUs per node; 0 for ranks x launch.threads.")
    memory: Annotated[Memory, Field(description="Memory per node, such as 64G; 0 for all.")] = ""
    mem_per_cpu: Annotated[Memory, Field(description="Memory per CPU, instead of memory.")] = ""
    mem_per_gpu: Annotated[Memory, Field(description="Memory per GPU, instead of memory.")] = ""
    licenses: Annotated[
        Licenses, Field(description="Licenses that the job needs, such as 'fluent:2'.")
    ] = ""
    comment: Annotated[Line, Field(description="Comment of the job.")] = ""
    nodelist: tuple[HostPattern, ...] = Field((), description="Nodes that the job must include.")
    options: FreeOptions = Field(
        {},
        description="Further options of sbatch by their long names, such as mail-type = 'END'; "
        "true for one without a value.",
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
        self._limits_are_possible()
        self._gpus_agree()
        memory = [key for key in ("memory", "mem_per_cpu", "mem_per_gpu") if getattr(self, key)]
        if len(memory) > 1:
            raise ValueError(f"Slurm accepts one amount of memory, found {' and '.join(memory)}")
        if self.mem_per_gpu and not self.gpus:
            raise ValueError(
                f"mem_per_gpu is {self.mem_per_gpu!r} without a GPU: expected gpus_per_node above 0"
            )
        if (self.container == "none") != (self.image == ""):
            raise ValueError(
                "container and image belong together: expected both or neither, found "
                f"container={self.container!r}, image={self.image!r}"
            )
        return self

    def _limits_are_possible(self) -> None:
        time_limit_seconds(self.time_limit)
        if self.deadline:
            try:
                deadline_time(self.deadline)
            except ValueError as error:
                raise ValueError(f"deadline: {error}") from None

    def _gpus_agree(self) -> None:
        in_gres = gpus_of(self.gres)
        if self.gpus_per_node and in_gres not in (0, self.gpus_per_node):
            raise ValueError(
                f"gres {self.gres!r} has {in_gres} GPUs per node and gpus_per_node "
                f"{self.gpus_per_node}: expected the same number, or one of the two keys"
            )
        if self.gpu_type and in_gres:
            raise ValueError(
                f"gpu_type is {self.gpu_type!r} and gres {self.gres!r}: expected the type in one "
                "of them, and no GPU in gres with gpu_type"
            )
        if self.gpu_type and not self.gpus_per_node:
            raise ValueError(
                f"gpu_type is {self.gpu_type!r} and gpus_per_node 0, which requests no GPU: "
                "expected both or neither"
            )

    @property
    def gpus(self) -> int:
        """GPUs per node, however they are requested; 0 for none."""
        return self.gpus_per_node or gpus_of(self.gres)
