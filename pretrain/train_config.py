"""The `[train]` table: length, batch size, precision and output of a run (imports no torch)."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from data_pipeline.config import LocalPath
from spectral.config_table import Positive, Table


class TrainConfig(Table):
    """The `[train]` table: length, batch size, precision and output of a run."""

    output: LocalPath = Field(Path("runs/run"), description="Run directory.")
    steps: Positive = Field(1000, description="Number of optimizer steps.")
    global_batch_size: Positive = Field(8, description="Windows per step, over all ranks.")
    micro_batch_size: Positive = Field(4, description="Windows per forward pass of a rank.")
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Random seed of the initial parameters, dropout and selection noise.",
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
