"""Arguments of the `resonance launch` commands (imports no torch)."""

from pathlib import Path
from typing import Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    run_file: tyro.conf.Positional[Path] = Field(description="The run, a TOML file.")


class _StartCommand(_Command):
    dry_run: bool = Field(False, description="Print what would be started.")
    submit: bool = Field(False, description="Start it.")

    @model_validator(mode="after")
    def _one_of_two(self) -> "_StartCommand":
        if self.dry_run and self.submit:
            raise ValueError("--dry-run and --submit exclude one another")
        return self


class LaunchLocalCommand(_StartCommand):
    """Start every rank of a run on this machine with torchrun, unless --dry-run is given."""

    resume: bool = Field(False, description="Go on from the run's newest complete checkpoint.")


class LaunchSlurmCommand(_StartCommand):
    """Print a run as a batch script; with --submit, check and submit it."""

    chain: int = Field(
        1, ge=1, description="Jobs in a row, for runs longer than the partition's time limit."
    )
    sweep: tuple[str, ...] = Field(
        (),
        description="KEY=VALUE,VALUE: run every combination as a task of one array, such as "
        "train.seed=0,1 optim.learning_rate=1e-3,3e-3.",
    )


class LaunchKubernetesCommand(_StartCommand):
    """Print a run as Kubernetes manifests; with --submit, check and create them."""


class LaunchCheckCommand(_Command):
    """Look for what would stop a run, before it is submitted; each finding has a remedy."""

    launcher: Literal["local", "slurm", "kubernetes"] = Field(
        "local", description="Where the run is to be launched."
    )
    on_nodes: bool = Field(
        False, description="Also compare versions on the nodes, in a short job (Slurm)."
    )


class LaunchStatusCommand(_Command):
    """Show the state of what was submitted for a run."""


class LaunchLogsCommand(_Command):
    """Show the end of the newest log of a run's jobs."""

    lines: int = Field(40, ge=1, description="Lines to show.")


class LaunchCancelCommand(_Command):
    """Cancel everything that was submitted for a run and has not ended."""
