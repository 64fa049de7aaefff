"""The `[optim]` table: the optimizer and its schedule (imports no torch)."""

from typing import Annotated, Literal

from pydantic import Field

from spectral.config_table import Table

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
# names, in torch's state, of the tensors of a parameter's shape that an optimizer keeps for it, and
# muon for a matrix, with adamw's for other parameters; `step` comes with them
OPTIMIZER_STATE = {"adamw": ("exp_avg", "exp_avg_sq"), "muon": ("momentum_buffer",)}
# name of a parameter's average, which is kept like the optimizer's tensors
AVERAGE = "average"


class OptimConfig(Table):
    """The `[optim]` table: the optimizer, and the schedule of its learning rate."""

    name: Literal["adamw", "muon"] = Field(
        "adamw",
        description="Optimizer; muon moves matrices by their orthogonalised momentum, and "
        "embeddings, vectors and modes by AdamW.",
    )
    schedule: Literal["cosine", "wsd", "linear", "constant"] = Field(
        "cosine",
        description="Course of the learning rate after a linear warm-up: a decay along a cosine or "
        "a line, wsd (stable, then a short decay at the end), or constant.",
    )
    schedule_by: Literal["steps", "tokens"] = Field(
        "steps",
        description="Unit in which warm-up and decay advance: steps, or tokens, of which the "
        "smaller steps of train.batch_warmup and train.length_warmup have fewer.",
    )
    learning_rate: float = Field(3e-3, gt=0.0, description="Peak learning rate.")
    scale: Literal["none", "width"] = Field(
        "none",
        description="Rates that transfer: with width, learning_rate is that of base_width "
        "channels; others scale it for each kind of parameter so that the best one stays.",
    )
    base_width: int = Field(
        128, ge=1, description="Channels (model.dim) of the model that learning_rate was tuned on."
    )
    final_ratio: Fraction = Field(0.1, description="Final learning rate as a share of the peak.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    warmup_share: Fraction = Field(
        0.0, description="Warm-up as a share of train.steps; above 0 it replaces warmup_steps."
    )
    decay_start: int = Field(
        0,
        ge=0,
        description="Step after which a cosine or a line begins; 0 for the end of the warm-up or, "
        "in a run with train.branch_from, the step of that checkpoint.",
    )
    decay_steps: int = Field(
        0, ge=0, description="Steps of the decay of wsd; 0 for decay_share of train.steps."
    )
    decay_share: Fraction = Field(0.2, description="Decay of wsd as a share of train.steps.")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="Decay rate of the first moment.")
    beta2: float = Field(0.95, ge=0.0, lt=1.0, description="Decay rate of the second moment.")
    epsilon: float = Field(
        1e-8, gt=0.0, description="Constant added to the root of the second moment."
    )
    weight_decay: float = Field(
        0.1, ge=0.0, description="Weight decay of matrices; vectors and modes have none."
    )
    momentum: float = Field(
        0.95, ge=0.0, lt=1.0, description="Decay rate of muon's momentum, which is Nesterov's."
    )
    update_rms: float = Field(
        0.2,
        gt=0.0,
        description="Root mean square of muon's updates, in units of the learning rate; AdamW's "
        "are about 0.2, so that one learning rate serves both.",
    )
    average_decay: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Decay rate of an exponential average of the parameters, which checkpoints "
        "keep; 0 for none.",
    )
    clip_norm: float = Field(
        1.0, gt=0.0, description="Maximum norm of a gradient; larger ones are scaled down."
    )
    clip: Literal["whole", "groups"] = Field(
        "whole",
        description="Gradients that clip_norm limits: the whole, or each parameter group's (with "
        "weight decay, without, and muon's matrices), so that none scales another down.",
    )

    def warmup(self, steps: int) -> int:
        """Steps of the warm-up of a run of `steps` steps."""
        return round(self.warmup_share * steps) or self.warmup_steps

    def decay(self, steps: int) -> tuple[int, int]:
        """First step of the decay and the step after its last one, in a run of `steps` steps."""
        warmup = self.warmup(steps)
        if self.schedule == "constant":
            return steps, steps
        if self.schedule == "wsd":
            return steps - (self.decay_steps or round(self.decay_share * steps)), steps
        return max(warmup, self.decay_start), steps

    def schedule_problem(self, steps: int) -> str:
        """Why the schedule does not fit into a run of `steps` steps; empty if it does."""
        warmup, (start, _) = self.warmup(steps), self.decay(steps)
        key = "warmup_share" if self.warmup_share else "warmup_steps"
        if warmup >= steps:
            return (
                f"optim.{key} is {getattr(self, key)}, a warm-up of {warmup} steps, and "
                f"train.steps {steps}; expected a shorter warm-up, at most {steps - 1} steps"
            )
        if start < warmup:
            decay = "decay_steps" if self.decay_steps else "decay_share"
            return (
                f"optim.{decay} is {getattr(self, decay)}: a warm-up of {warmup} and a decay of "
                f"{steps - start} steps are longer than train.steps {steps}; expected a decay of "
                f"at most {steps - warmup} steps, or train.steps {warmup + steps - start}"
            )
        if self.schedule in ("cosine", "linear") and start >= steps:
            return (
                f"optim.decay_start is {self.decay_start} and train.steps {steps}; expected a step "
                f"before the end, at most {steps - 1}"
            )
        return ""

    def state_tensors(self, *, is_matrix: bool) -> tuple[str, ...]:
        """Names of the tensors that the optimizer keeps for a parameter, of its shape.

        Args:
            is_matrix: Whether it is a weight with matrices (`pretrain/parallel/matrices.py`).
        """
        names = OPTIMIZER_STATE[self.name if is_matrix else "adamw"]
        return (*names, AVERAGE) if self.average_decay else names
