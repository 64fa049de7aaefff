"""The `[launch]` table of a run file (imports no torch: a login node has none)."""

from pydantic import BaseModel, ConfigDict, Field


class LaunchConfig(BaseModel):
    """How the processes of a run are started."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: int = Field(1, ge=1, description="Processes (ranks) on this machine.")
    threads: int = Field(1, ge=1, description="CPU threads of each process.")
