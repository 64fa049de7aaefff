"""The `[launch]` table of a run file (imports no torch: a login node has none)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from launch.field_types import Environment, JobName
from launch.kubernetes_config import KubernetesConfig
from launch.slurm_config import SlurmConfig, time_limit_seconds


class LaunchConfig(BaseModel):
    """How the processes of a run are started, here and on other machines."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: int = Field(1, ge=1, description="Processes (ranks) on this machine.")
    threads: int = Field(1, ge=1, description="CPU threads of each process.")
    name: Annotated[JobName, Field(description="Of the job; empty: made of the output's path.")] = (
        ""
    )
    nodes: int = Field(1, ge=1, description="Machines, under Slurm and Kubernetes.")
    min_nodes: int = Field(
        0, ge=0, description="Machines that are enough to go on with when one is lost; 0: all."
    )
    max_restarts: int = Field(
        3, ge=0, description="Restarts of all ranks, without a new job, when one of them fails."
    )
    stop_lead_s: int = Field(
        300, ge=10, description="Seconds that ranks have for saving before they are killed."
    )
    port: int = Field(
        0, ge=0, le=65535, description="Port of the rendezvous; 0: 29500, or by Slurm's job number."
    )
    network_interface: str = Field(
        "", pattern=r"^[A-Za-z0-9_.:^,-]*$", description="Interface that ranks talk through."
    )
    environment: Annotated[
        Environment, Field(description="Further variables of the ranks; no secrets.")
    ] = {}
    slurm: SlurmConfig = Field(SlurmConfig(), description="Batch jobs.")
    kubernetes: KubernetesConfig = Field(KubernetesConfig(), description="Manifests.")

    @model_validator(mode="after")
    def _fits_together(self) -> "LaunchConfig":
        if self.min_nodes > self.nodes:
            raise ValueError(
                f"min_nodes must be at most nodes, got {self.min_nodes} and {self.nodes}"
            )
        if time_limit_seconds(self.slurm.time_limit) <= self.stop_lead_s:
            raise ValueError(
                f"slurm.time_limit must be longer than stop_lead_s, got "
                f"{self.slurm.time_limit!r} and {self.stop_lead_s} s"
            )
        return self

    @property
    def nnodes(self) -> str:
        """Number of machines as torchrun takes it: N, or MIN:MAX."""
        return f"{self.min_nodes}:{self.nodes}" if self.is_elastic else str(self.nodes)

    @property
    def is_elastic(self) -> bool:
        """Whether the run may go on with fewer machines."""
        return self.min_nodes not in (0, self.nodes)
