"""A run, as one frozen value: every table of a run file (imports no torch)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_pipeline.config import DataConfig
from launch.config import LaunchConfig
from spectral.config import ModelConfig

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimConfig(_Table):
    """The `[optim]` table: AdamW with linear warm-up and cosine decay."""

    learning_rate: float = Field(3e-3, gt=0.0, description="Peak, reached after the warm-up.")
    final_ratio: Fraction = Field(0.1, description="Last learning rate, as a share of the peak.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    beta1: Fraction = Field(0.9, description="Decay of the first moment.")
    beta2: Fraction = Field(0.95, description="Decay of the second moment.")
    epsilon: float = Field(1e-8, gt=0.0, description="Added to the root of the second moment.")
    weight_decay: float = Field(
        0.1, ge=0.0, description="On matrices; vectors and modes have none."
    )
    clip_norm: float = Field(1.0, gt=0.0, description="Largest norm of the whole gradient.")


class TrainConfig(_Table):
    """The `[train]` table: how long, how much at once, and where the results go."""

    output: Path = Field(Path("runs/run"), description="The run's directory.")
    steps: Positive = Field(1000, description="Optimizer steps.")
    global_batch_size: Positive = Field(8, description="Windows per step, over all ranks.")
    micro_batch_size: Positive = Field(4, description="Windows per forward pass of a rank.")
    seed: int = Field(0, ge=0, description="Seed of the initial parameters.")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="bf16 runs matrix products in bfloat16; auto does where a GPU has it."
    )
    activation_checkpointing: bool = Field(
        False, description="Recompute each block in the backward pass instead of keeping it."
    )
    validate_every: int = Field(100, ge=0, description="Steps between validations; 0 for never.")
    wandb: Literal["auto", "disabled"] = Field(
        "auto", description="Weights & Biases; auto logs offline when there is no WANDB_API_KEY."
    )


class ParallelConfig(_Table):
    """The `[parallel]` table: how a model is laid out over ranks."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        1,
        description="DeepSpeed ZeRO: what data-parallel ranks shard (1 optimizer states, "
        "2 gradients too, 3 parameters too).",
    )


class CheckpointConfig(_Table):
    """The `[checkpoint]` table."""

    every: int = Field(100, ge=0, description="Steps between checkpoints; 0: only the last step.")
    keep_last: Positive = Field(2, description="Complete checkpoints to keep.")


class RunConfig(_Table):
    """One run.

    Raises:
        ValueError: An unknown key, a wrong type or an impossible combination.
    """

    model: ModelConfig = Field(ModelConfig(), description="Architecture.")
    data: DataConfig = Field(DataConfig(), description="Streams of training data.")
    optim: OptimConfig = Field(OptimConfig(), description="Optimizer and schedule.")
    train: TrainConfig = Field(TrainConfig(), description="Length, batch, output.")
    parallel: ParallelConfig = Field(ParallelConfig(), description="Layout over ranks.")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="Checkpoints.")
    launch: LaunchConfig = Field(LaunchConfig(), description="Processes.")

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        if self.train.global_batch_size % self.train.micro_batch_size:
            raise ValueError(
                "train.global_batch_size must be a multiple of train.micro_batch_size, got "
                f"{self.train.global_batch_size} and {self.train.micro_batch_size}"
            )
        if self.optim.warmup_steps >= self.train.steps:
            raise ValueError(
                "optim.warmup_steps must be smaller than train.steps, got "
                f"{self.optim.warmup_steps} and {self.train.steps}"
            )
        return self
