"""Configuration of a cluster that builds a corpus (imports no torch)."""

from typing import Annotated

import tyro
from pydantic import Field, field_validator

from data_pipeline.config_table import Table

KINDS = ("local", "slurm")
PROTOCOLS = ("tcp://", "tls://")


class ClusterConfig(Table):
    """A Dask cluster that runs the tasks of a build."""

    kind: Annotated[str, tyro.conf.arg(name="")] = Field(
        "",
        description="local (processes of this machine), slurm (jobs), or the address of a running "
        "scheduler (tls://HOST:PORT, tcp://HOST:PORT); empty for the pool of num_processes.",
    )
    workers: int = Field(2, ge=1, description="Largest number of worker processes.")
    min_workers: int = Field(
        0,
        ge=0,
        description="Smallest number of worker processes: between the two, as many as the tasks "
        "need. 0 for always the largest.",
    )
    memory: str = Field(
        "4GiB", description="Memory of a worker process; one that exceeds it is started again."
    )
    walltime: str = Field("01:00:00", description="Time limit of a Slurm job of one worker.")
    partition: str = Field("", description="Slurm partition; empty for the default one.")
    account: str = Field("", description="Slurm account; empty for the default one.")
    interface: str = Field(
        "", description="Network interface of the machines of a Slurm cluster, as eth0."
    )
    host: str = Field(
        "",
        description="Address of this machine for workers of Slurm; empty for that of interface.",
    )
    setup: tuple[str, ...] = Field(
        (), description="Shell commands of a Slurm job before its worker starts."
    )
    tls_ca: str = Field("", description="File of the certificate authority of a tls:// scheduler.")
    tls_cert: str = Field("", description="File of this client's certificate for it.")
    tls_key: str = Field("", description="File of its key.")
    attempts: int = Field(
        4, ge=1, description="Workers that a task may lose, one after another, before it fails."
    )
    wait_s: float = Field(
        300.0, gt=0, description="Longest wait for the first worker or a scheduler, in seconds."
    )

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind and kind not in KINDS and not kind.startswith(PROTOCOLS):
            raise ValueError(
                f"expected {', '.join(KINDS)}, tls://HOST:PORT or tcp://HOST:PORT, found {kind!r}"
            )
        return kind
