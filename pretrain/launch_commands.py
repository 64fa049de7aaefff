"""Arguments of `resonance launch` and `resonance plan` (imports no torch)."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field, model_validator

from data_pipeline.config import LocalName, LocalPath
from pretrain.commands import Command


class _LaunchCommand(Command):
    """Base of the `resonance launch` commands."""

    run_file: tyro.conf.Positional[Path] = Field(description="Run file (TOML).")


class _FitCommand(_LaunchCommand):
    """Base of the commands that check whether a run fits into its GPUs."""

    gpu: str = Field(
        "",
        description="GPU whose memory the run must fit, as for `resonance plan`; empty for "
        "launch.slurm.gpu_type, or for no check.",
    )
    force: bool = Field(False, description="Accept a run that does not fit into the GPU's memory.")


class _StartCommand(_LaunchCommand):
    """Base of the commands that start a run."""

    dry_run: bool = Field(False, description="Only print what would be started.")
    submit: bool = Field(False, description="Start or submit the run.")

    @model_validator(mode="after")
    def _one_of_two(self) -> "_StartCommand":
        if self.dry_run and self.submit:
            raise ValueError("--dry-run and --submit exclude one another")
        return self


class LaunchLocalCommand(_StartCommand):
    """Start every rank of a run on this machine with torchrun, unless --dry-run is given."""

    resume: bool = Field(False, description="Resume from the run's newest complete checkpoint.")


class LaunchSlurmCommand(_StartCommand, _FitCommand):
    """Print the batch script of a run; with --submit, check the run and submit it."""

    chain: int = Field(
        1,
        ge=1,
        description="Number of jobs that run one after another, for runs longer than the "
        "partition's time limit.",
    )
    sweep: tuple[str, ...] = Field(
        (),
        description="Values to sweep, as KEY=VALUE,VALUE: every combination becomes a task of one "
        "job array. Example: train.seed=0,1 optim.learning_rate=1e-3,3e-3.",
    )


class LaunchKubernetesCommand(_StartCommand, _FitCommand):
    """Print the Kubernetes manifests of a run; with --submit, check and create them."""


class LaunchCheckCommand(_FitCommand):
    """Check a run before it is submitted; each finding names a remedy."""

    launcher: Literal["local", "slurm", "kubernetes"] = Field(
        "local", description="Launcher that the run is checked for."
    )
    on_nodes: bool = Field(
        False, description="Also compare versions on the nodes, in a short Slurm job."
    )


class LaunchStatusCommand(_LaunchCommand):
    """Show the state of a run's submitted jobs."""


class LaunchLogsCommand(_LaunchCommand):
    """Show the end of the newest log of a run's jobs."""

    lines: int = Field(40, ge=1, description="Number of lines to show.")


class LaunchCancelCommand(_LaunchCommand):
    """Cancel all jobs of a run that have not ended."""


class PlanCommand(Command):
    """Predict memory and time of a run on GPUs that need not be there, or propose a run."""

    run_file: tyro.conf.Positional[Path | None] = Field(
        None, description="Run file (TOML); None with --tokens."
    )
    gpu: str = Field(
        "h100", description="GPU: a100, h100, h200, b200, mi300x, or one of the file of --devices."
    )
    gpus: int = Field(
        0, ge=0, le=2**20, description="Number of GPUs; 0 for the ranks that [launch] starts."
    )
    network: str = Field(
        "400", description="Network between machines: the Gbit/s of a GPU, or the name of a link."
    )
    devices: Path | None = Field(
        None, description="TOML file with more GPUs and links, like pretrain/planning/devices.toml."
    )
    search: bool = Field(
        False,
        description="Search for the fastest layouts of this run's step on these GPUs, and say why "
        "others lose.",
    )
    tokens: int = Field(
        0,
        ge=0,
        le=10**15,
        description="Propose a run that reads this many tokens, with a source for each key; 0 for "
        "the plan of a run file.",
    )
    preset: str = Field(
        "", description="Model size of a proposed run; empty for one that suits its tokens."
    )
    optimizer: Literal["muon", "adamw"] = Field(
        "muon", description="Optimizer of a proposed run, as optim.name."
    )
    data: LocalPath = Field(
        Path("data"), description="Folder with train/ and valid/ that a proposed run reads."
    )
    tokenizer: LocalName = Field(
        "tokenizer.model", description="Tokenizer of a proposed run, as data.tokenizer."
    )
    write: LocalPath | None = Field(
        None, description="Run file to write the proposed run to; it must not exist."
    )
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = Field(False, description="Print JSON.")
