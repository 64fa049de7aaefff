"""Arguments of the sub-commands that belong to the trainer (imports no torch)."""

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel, ConfigDict, Field

from data_pipeline.config import StorageConfig
from pretrain.config import RunConfig


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PretrainCommand(_Command):
    """Train a model as a run file says. Start several ranks with torchrun or `launch local`."""

    run_file: tyro.conf.Positional[Path] = Field(description="The run, a TOML file.")
    resume: bool = Field(False, description="Go on from the run's newest complete checkpoint.")
    auto_resume: bool = Field(
        False, description="Go on if there is a checkpoint, start otherwise: for requeued jobs."
    )
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = Field(RunConfig())


class EvaluateCommand(_Command):
    """Loss, perplexity and bits per byte of a checkpoint on a held-out split."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="A run's directory or one checkpoint."
    )
    data: str = Field("", description="Split with a manifest; default: the run's own `data.valid`.")
    baselines: bool = Field(
        True,
        description="Also fit interpolated n-grams to the run's training data, to compare; holds "
        "all of its tokens in memory.",
    )
    sequence_length: int = Field(0, ge=0, description="Tokens per window; 0: as in training.")
    batch_size: int = Field(8, ge=1, description="Windows per forward pass.")


class GenerateCommand(_Command):
    """Continue a prompt, one token at a time in constant time and memory."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="A run's directory or one checkpoint."
    )
    prompt: str = Field("", description="Text to continue; empty: begin a document.")
    max_tokens: int = Field(200, ge=1, description="Longest continuation.")
    temperature: float = Field(0.8, ge=0.0, description="Of sampling; 0 is greedy.")
    top_k: int = Field(0, ge=0, description="Sample among the k likeliest tokens; 0: all.")
    top_p: float = Field(
        0.95, gt=0.0, le=1.0, description="Sample among the likeliest tokens of this mass."
    )
    seed: int = Field(0, ge=0, description="Of sampling.")


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
