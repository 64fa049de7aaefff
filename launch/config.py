"""The `[launch]` table of a run file (imports no torch: a login node has none)."""

from typing import Annotated

from pydantic import Field, model_validator

from launch.field_types import Environment, JobName, Table, form
from launch.kubernetes_config import KubernetesConfig
from launch.slurm_config import SlurmConfig, time_limit_seconds


class LaunchConfig(Table):
    """Number and environment of a run's processes, on this and on other machines."""

    processes: int = Field(1, ge=1, description="Number of processes (ranks) on this machine.")
    threads: int = Field(1, ge=1, description="CPU threads per process.")
    name: Annotated[
        JobName, Field(description="Name of the job; empty for one made from the output's path.")
    ] = ""
    nodes: int = Field(1, ge=1, description="Number of machines, under Slurm and Kubernetes.")
    min_nodes: int = Field(
        0,
        ge=0,
        description="Minimum number of machines to continue with after some are lost; 0 for all.",
    )
    max_restarts: int = Field(
        3, ge=0, description="Maximum number of restarts of all ranks within one job."
    )
    stop_lead_s: int = Field(
        300, ge=10, description="Seconds that ranks have to save before they are killed."
    )
    port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of the rendezvous; 0 for a free one on this machine, one derived from "
        "the job number under Slurm, 29500 under Kubernetes.",
    )
    network_interface: Annotated[
        str,
        form(r"[A-Za-z0-9_.:^,-]+", "a network interface's name, such as 'eth0'", empty=True),
        Field(description="Network interface between ranks of several machines."),
    ] = ""
    environment: Environment = Field(
        {}, description="Additional environment variables of the ranks, without secrets."
    )
    slurm: SlurmConfig = Field(SlurmConfig(), description="Options of Slurm jobs.")
    kubernetes: KubernetesConfig = Field(
        KubernetesConfig(), description="Options of Kubernetes manifests."
    )

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
        """Number of machines in torchrun's form: N, or MIN:MAX."""
        return f"{self.min_nodes}:{self.nodes}" if self.is_elastic else str(self.nodes)

    @property
    def is_elastic(self) -> bool:
        """Whether the run may continue with fewer machines."""
        return self.min_nodes not in (0, self.nodes)
