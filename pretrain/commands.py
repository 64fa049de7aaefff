"""Arguments of the sub-commands (imports no torch)."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_pipeline.config import StorageConfig
from pretrain.config import RunConfig


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PretrainCommand(_Command):
    """Train a model as a run file says. Start several ranks with torchrun or `launch local`."""

    run_file: tyro.conf.Positional[Path] = Field(description="The run, a TOML file.")
    resume: bool = Field(False, description="Go on from the run's newest complete checkpoint.")
    auto_resume: bool = Field(
        False, description="Go on if there is a checkpoint, start otherwise: for requeued jobs."
    )
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = Field(RunConfig())


class EvaluateCommand(_Command):
    """Loss, perplexity and bits per byte on a split or text files; tasks of lm-eval."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="A run's directory, one checkpoint or, with --text or --tasks, an exported "
        "folder."
    )
    data: str = Field("", description="Split with a manifest; default: the run's own `data.valid`.")
    baselines: bool = Field(
        True,
        description="Also fit interpolated n-grams to the run's training data, to compare; holds "
        "all of its tokens in memory.",
    )
    text: tuple[Path, ...] = Field((), description="UTF-8 files instead: each is one document.")
    tasks: tuple[str, ...] = Field(
        (), description="Instead: tasks of lm-eval by name, or YAML files that describe them."
    )
    limit: int = Field(0, ge=0, description="Samples of each task; 0: all.")
    state: Literal["carried", "sliding"] = Field(
        "carried",
        description="Text: the state is carried through the whole file, or every window begins "
        "anew and its first part is context only.",
    )
    stride: int = Field(
        0, ge=0, description="Tokens of each sliding window that count; 0: half of it."
    )
    sequence_length: int = Field(0, ge=0, description="Tokens per window; 0: as in training.")
    batch_size: int = Field(8, ge=1, description="Windows per forward pass.")


class GenerationOptions(_Command):
    """How text is generated."""

    max_tokens: int = Field(200, ge=1, description="Longest continuation.")
    min_tokens: int = Field(0, ge=0, description="Shortest continuation.")
    temperature: float = Field(0.8, ge=0.0, description="Of sampling; 0 takes the likeliest.")
    top_k: int = Field(0, ge=0, description="Sample among the k likeliest tokens; 0: all.")
    top_p: float = Field(
        0.95, gt=0.0, le=1.0, description="Sample among the likeliest tokens of this mass."
    )
    beams: int = Field(1, ge=1, description="Sequences that are kept at once; 1: no beam search.")
    beam_groups: int = Field(
        1, ge=1, description="Groups of beams that are kept apart, without sampling."
    )
    diversity_penalty: float = Field(
        1.0, ge=0.0, description="On tokens that an earlier group of beams has chosen."
    )
    length_penalty: float = Field(
        1.0, description="Beams are compared by score / length ** penalty; above 0 favours long."
    )
    early_stopping: bool = Field(
        False, description="End a beam search once as many sequences as beams are complete."
    )
    repetition_penalty: float = Field(
        1.0, gt=0.0, description="Divides the scores of tokens that were seen; 1: none."
    )
    no_repeat_ngram: int = Field(0, ge=0, description="Never repeat so many tokens; 0: may.")
    coverage_penalty: float = Field(
        0.0, ge=0.0, description="Times log(1 + how often a token was generated); 0: none."
    )
    seed: int = Field(0, ge=0, description="Of sampling.")


class GenerateCommand(GenerationOptions):
    """Continue a prompt or a file of them, one token at a time in constant time and memory."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="A run's directory, one checkpoint or an exported folder."
    )
    prompt: str = Field("", description="Text to continue; empty: begin a document.")
    prompts: Path | None = Field(
        None, description="File with a prompt per line, or .jsonl with {'prompt': ...}."
    )
    output: Path | None = Field(None, description="Where JSON lines go; default: printed.")
    batch_size: int = Field(8, ge=1, description="Prompts of a file that are continued at once.")


class ChatCommand(GenerationOptions):
    """Talk to a model, turn by turn; its memory of the conversation has constant size."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="A run's directory, one checkpoint or an exported folder."
    )
    user: str = Field("User: ", description="What is put before each turn of yours.")
    reply: str = Field("\nAssistant:", description="What is put between your turn and the reply.")
    stop: str = Field("\nUser:", description="Text that ends a reply; empty: none.")


class ExportCommand(_Command):
    """Write a checkpoint as a Hugging Face folder that loads without Resonance."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="A run's directory or one checkpoint."
    )
    output: tyro.conf.Positional[Path] = Field(description="The folder to write; must not exist.")


class VerifyCheckpointCommand(_Command):
    """Check a checkpoint: hashes, missing shards, shapes, state, and what its model computes."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="A run's directory or one checkpoint."
    )


class InspectCommand(_Command):
    """Print what is in a checkpoint, as a tree."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="A run's directory or one checkpoint."
    )


class FetchCommand(_Command):
    """Copy a checkpoint from an object store, and verify it."""

    url: tyro.conf.Positional[str] = Field(
        description="A checkpoint, or a folder of them: then the newest. For example s3://..."
    )
    output: tyro.conf.Positional[Path] = Field(description="The folder to put it into.")
    storage: StorageConfig = Field(StorageConfig(), description="How to reach it.")


class PlanCommand(_Command):
    """What each rank of a layout has, sends and computes: simulated, on up to 4,096 ranks."""

    run_file: tyro.conf.Positional[Path | None] = Field(
        None, description="The run; without one, every preset in several layouts."
    )
    ranks: int = Field(8, ge=1, description="Ranks to simulate.")


class DoctorCommand(_Command):
    """Check this machine: versions, devices, shadowed packages, free disk, writable paths."""

    output: Path = Field(Path("runs"), description="Where runs are to be written.")
    kernels: bool = Field(
        False,
        description="Instead, compile every GPU kernel for every supported architecture, with no "
        "GPU, and print what each needs. Takes minutes the first time.",
    )


class _LaunchCommand(_Command):
    """Base of the `resonance launch` commands."""

    run_file: tyro.conf.Positional[Path] = Field(description="The run, a TOML file.")


class _StartCommand(_LaunchCommand):
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


class LaunchCheckCommand(_LaunchCommand):
    """Look for what would stop a run, before it is submitted; each finding has a remedy."""

    launcher: Literal["local", "slurm", "kubernetes"] = Field(
        "local", description="Where the run is to be launched."
    )
    on_nodes: bool = Field(
        False, description="Also compare versions on the nodes, in a short job (Slurm)."
    )


class LaunchStatusCommand(_LaunchCommand):
    """Show the state of what was submitted for a run."""


class LaunchLogsCommand(_LaunchCommand):
    """Show the end of the newest log of a run's jobs."""

    lines: int = Field(40, ge=1, description="Lines to show.")


class LaunchCancelCommand(_LaunchCommand):
    """Cancel everything that was submitted for a run and has not ended."""
