"""The `[train]` and `[evaluate]` tables (imports no torch)."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from data_pipeline.config import LocalName, LocalPath
from spectral.config_table import Positive, Table

# a step, counted from 0, and the size of the steps before it
Stage = tuple[Positive, Positive]


class TrainConfig(Table):
    """The `[train]` table: length, batch size, precision and output of a run."""

    output: LocalPath = Field(Path("runs/run"), description="Run directory.")
    branch_from: LocalName = Field(
        "",
        description="Checkpoint, or run directory for its newest, that a run without checkpoints "
        "starts from, with its optimizer state and position in the data; empty for a new model. "
        "With another objective.kind there, only its parameters are read.",
    )
    steps: Positive = Field(1000, description="Number of optimizer steps.")
    global_batch_size: Positive = Field(8, description="Windows per step, over all ranks.")
    micro_batch_size: Positive = Field(4, description="Windows per forward pass of a rank.")
    batch_warmup: tuple[Stage, ...] = Field(
        (),
        description="Smaller steps at the start, as (step, windows): the steps before this one, "
        "and after the entry before it, read this many windows; later ones global_batch_size.",
    )
    length_warmup: tuple[Stage, ...] = Field(
        (),
        description="Shorter windows at the start, as (step, tokens); later ones have "
        "data.sequence_length.",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Random seed of the initial parameters, dropout and selection noise.",
    )
    z_loss: float = Field(
        0.0,
        ge=0.0,
        description="Weight of the z-loss, the squared log of the softmax's denominator, per "
        "token; 1e-4 keeps logits small. Reported losses are without it.",
    )
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field(
        "auto",
        description="Precision of matrix products: bf16 is bfloat16, fp16 is float16; auto is bf16 "
        "on GPUs that support it and float32 elsewhere. With bf16, signals between operations and "
        "matrices between ranks are bfloat16 too.",
    )
    gradient_reduction: Literal["auto", "float32"] = Field(
        "auto",
        description="Precision in which ranks sum the gradients of matrices; auto is bfloat16 in "
        "bf16 with ZeRO, else float32. Those of vectors and modes are always summed in float32.",
    )
    initial_loss_scale: float = Field(
        65536.0, ge=1.0, description="Initial loss scale of fp16; an overflow halves it."
    )
    loss_scale_window: Positive = Field(
        1000, description="Steps without overflow after which the loss scale doubles."
    )
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        "none",
        description="Activations recomputed in the backward pass instead of stored: those of "
        "feed-forward layers (selective) or of whole blocks (full).",
    )
    activation_checkpoint_every: Positive = Field(
        1, description="Apply activation checkpointing to every n-th block, starting at the first."
    )
    activation_offload: bool = Field(
        False, description="Keep the inputs of recomputed layers in CPU memory."
    )
    compile: bool = Field(
        False,
        description="Compile every block for training with torch.compile, which needs a C++ "
        "compiler on every machine.",
    )
    validate_every: int = Field(
        100, ge=0, description="Steps between validations, also after the last step; 0 for never."
    )
    validate_batches: int = Field(
        0,
        ge=0,
        description="Batches of global_batch_size windows that a validation reads, from the start "
        "of the held-out split; 0 for the whole split.",
    )
    wandb: Literal["auto", "disabled"] = Field(
        "auto", description="Weights & Biases; auto logs offline when WANDB_API_KEY is not set."
    )

    def stage_problem(self) -> str:
        """Why the smaller steps at the start cannot be; empty if they can."""
        for key in ("batch_warmup", "length_warmup"):
            ends = [end for end, _ in getattr(self, key)]
            if ends != sorted(set(ends)):
                return f"train.{key} has the steps {ends}; expected ascending ones"
            if ends and ends[-1] >= self.steps:
                return (
                    f"train.{key} lasts until step {ends[-1]} of train.steps {self.steps}; "
                    f"expected at most {self.steps - 1}"
                )
        for end, rows in self.batch_warmup:
            if rows % self.micro_batch_size:
                return (
                    f"train.batch_warmup has {rows} windows before step {end}; expected a multiple "
                    f"of train.micro_batch_size {self.micro_batch_size}"
                )
        return ""


class EvaluateConfig(Table):
    """The `[evaluate]` table: text files and lm-eval's tasks that are measured during training."""

    every: int = Field(
        0, ge=0, description="Steps between evaluations, also after the last step; 0 for never."
    )
    texts: tuple[LocalPath, ...] = Field(
        (),
        description="UTF-8 files whose loss and bits per byte are measured, in windows of "
        "data.sequence_length that each start from an empty state.",
    )
    tasks: tuple[str, ...] = Field(
        (),
        description="lm-eval's tasks, by name or YAML file; each rank must hold the whole model.",
    )
    limit: int = Field(0, ge=0, description="Samples per task; 0 for all.")

    @model_validator(mode="after")
    def _has_something_to_measure(self) -> "EvaluateConfig":
        if self.every and not self.texts and not self.tasks:
            raise ValueError(
                f"evaluate.every is {self.every} with no evaluate.texts and no evaluate.tasks; "
                "expected a file or a task, or every = 0"
            )
        names = [re.sub(r"\W", "_", file.stem, flags=re.ASCII) for file in self.texts]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"evaluate.texts has {names.count(name)} files whose metrics would be named "
                    f"eval_{name}_loss; expected files of different names"
                )
        return self
