"""The `[optim]` table: the optimizer and its schedule (imports no torch)."""

from typing import Annotated, Literal

from pydantic import Field

from spectral.config_table import Table

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
# names, in torch's state, of the tensors of a parameter's shape that an optimizer keeps for it;
# `step` comes with them
OPTIMIZER_STATE = {"adamw": ("exp_avg", "exp_avg_sq")}


class OptimConfig(Table):
    """The `[optim]` table: the optimizer, and the schedule of its learning rate."""

    name: Literal["adamw"] = Field("adamw", description="Optimizer.")
    schedule: Literal["cosine"] = Field(
        "cosine", description="Decay of the learning rate after a linear warm-up."
    )
    learning_rate: float = Field(3e-3, gt=0.0, description="Peak learning rate.")
    final_ratio: Fraction = Field(0.1, description="Final learning rate as a share of the peak.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="Decay rate of the first moment.")
    beta2: float = Field(0.95, ge=0.0, lt=1.0, description="Decay rate of the second moment.")
    epsilon: float = Field(
        1e-8, gt=0.0, description="Constant added to the root of the second moment."
    )
    weight_decay: float = Field(
        0.1, ge=0.0, description="Weight decay of matrices; vectors and modes have none."
    )
    clip_norm: float = Field(
        1.0, gt=0.0, description="Maximum norm of the whole gradient; larger ones are scaled down."
    )

    @property
    def state_tensors(self) -> tuple[str, ...]:
        """Names of the tensors that the optimizer keeps for every parameter, of its shape."""
        return OPTIMIZER_STATE[self.name]
