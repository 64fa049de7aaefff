"""A run, as one frozen value: every table of a run file (imports no torch)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_pipeline.config import DataConfig
from launch.config import LaunchConfig
from spectral.config import ModelConfig

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
# timers of the system take no more than some centuries
YEAR_S = 365 * 86_400.0


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# names, in torch's state, of the tensors of a parameter's shape that an optimizer keeps for it;
# `step` comes with them
OPTIMIZER_STATE = {"adamw": ("exp_avg", "exp_avg_sq")}


class OptimConfig(_Table):
    """The `[optim]` table: the optimizer, and the schedule of its learning rate."""

    name: Literal["adamw"] = Field("adamw", description="Optimizer.")
    schedule: Literal["cosine"] = Field(
        "cosine", description="Decay of the learning rate after a linear warm-up."
    )
    learning_rate: float = Field(3e-3, gt=0.0, description="Peak, reached after the warm-up.")
    final_ratio: Fraction = Field(0.1, description="Last learning rate, as a share of the peak.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="Decay of the first moment.")
    beta2: float = Field(0.95, ge=0.0, lt=1.0, description="Decay of the second moment.")
    epsilon: float = Field(1e-8, gt=0.0, description="Added to the root of the second moment.")
    weight_decay: float = Field(
        0.1, ge=0.0, description="On matrices; vectors and modes have none."
    )
    clip_norm: float = Field(1.0, gt=0.0, description="Largest norm of the whole gradient.")

    @property
    def state_tensors(self) -> tuple[str, ...]:
        """Names of the tensors that the optimizer keeps for every parameter, of its shape."""
        return OPTIMIZER_STATE[self.name]


class TrainConfig(_Table):
    """The `[train]` table: how long, how much at once, and where the results go."""

    output: Path = Field(Path("runs/run"), description="The run's directory.")
    steps: Positive = Field(1000, description="Optimizer steps.")
    global_batch_size: Positive = Field(8, description="Windows per step, over all ranks.")
    micro_batch_size: Positive = Field(4, description="Windows per forward pass of a rank.")
    seed: int = Field(0, ge=0, description="Seed of the initial parameters.")
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field(
        "auto",
        description="bf16 and fp16 run matrix products in bfloat16 and float16; auto is bf16 where "
        "a GPU has it.",
    )
    initial_loss_scale: float = Field(
        65536.0, ge=1.0, description="First factor of the loss in fp16; an overflow halves it."
    )
    loss_scale_window: Positive = Field(
        1000, description="Steps without overflow after which the factor doubles."
    )
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        "none",
        description="What the backward pass recomputes instead of keeping it: feed-forwards, or "
        "whole blocks.",
    )
    activation_checkpoint_every: Positive = Field(
        1, description="Only in every n-th block from the first on."
    )
    activation_offload: bool = Field(
        False, description="Keep the inputs of what is recomputed in the CPU's memory."
    )
    validate_every: int = Field(100, ge=0, description="Steps between validations; 0 for never.")
    wandb: Literal["auto", "disabled"] = Field(
        "auto", description="Weights & Biases; auto logs offline when there is no WANDB_API_KEY."
    )


class ParallelConfig(_Table):
    """How a model is laid out over ranks; data ranks are what remains."""

    tensor: Positive = Field(
        1, description="Ranks that share every layer: heads, hidden channels and vocabulary."
    )
    shard_activations: bool = Field(
        False,
        description="Tensor ranks share the activations between layers, too: each holds some of "
        "the tokens (Megatron's sequence parallelism).",
    )
    pipeline: Positive = Field(1, description="Stages that share the layers of the model.")
    sequence: Positive = Field(1, description="Ranks that share every sequence, a span each.")
    expert: Positive = Field(
        1, description="Data and sequence ranks that share the experts of every layer."
    )
    data: int = Field(
        0,
        ge=0,
        description="Ranks with different data; 0 for as many as there are. With launch.min_nodes, "
        "fewer when machines are lost.",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1,
        description="DeepSpeed ZeRO: what data and sequence ranks shard (1 optimizer states, "
        "2 gradients too, 3 parameters too).",
    )
    offload_optimizer: Literal["none", "cpu", "nvme"] = Field(
        "none", description="Where ZeRO keeps optimizer states; nvme needs stage 3."
    )
    offload_parameters: Literal["none", "cpu", "nvme"] = Field(
        "none", description="Where ZeRO-3 keeps parameters that are not in use."
    )
    nvme_path: Path = Field(Path("/local_nvme"), description="Folder on the disk of each node.")

    @property
    def model_ranks(self) -> int:
        """Ranks that work on the same tokens or on spans of the same sequences."""
        return self.tensor * self.pipeline * self.sequence


class CheckpointConfig(_Table):
    """The `[checkpoint]` table."""

    every: int = Field(100, ge=0, description="Steps between checkpoints; 0: only the last step.")
    keep_last: Positive = Field(2, description="Complete checkpoints to keep.")
    keep_every: int = Field(
        0, ge=0, description="Also keep those at multiples of so many steps; 0: none."
    )
    asynchronous: bool = Field(
        True,
        description="Write while training goes on: it waits for a copy to host memory only.",
    )
    remote: str = Field(
        "",
        description="Where complete checkpoints are also copied to, for example "
        "s3://bucket/run; a run without local checkpoints goes on from there. What could not be "
        "uploaded is tried again with the next one.",
    )
    on_error: Literal["continue", "stop"] = Field(
        "continue",
        description="When one cannot be written (full disk): train on, or stop. The last one of a "
        "run must be written either way; stop also makes it an error if remote then lacks one.",
    )


class GuardConfig(_Table):
    """The `[guard]` table: what to do about a step whose numbers are bad, before it is applied."""

    on_nonfinite: Literal["stop", "skip", "rollback"] = Field(
        "skip",
        description="Loss or gradient is NaN or infinite: stop, pass over the step's data, or also "
        "go back to the newest checkpoint.",
    )
    on_spike: Literal["note", "stop", "skip", "rollback"] = Field(
        "note", description="The loss jumps: as above, or only write it down."
    )
    spike_history: int = Field(
        100, ge=10, description="Losses that a spike is measured against; none before so many."
    )
    spike_sigmas: float = Field(
        10.0, gt=0.0, description="Robust standard deviations above their median."
    )
    spike_rise: float = Field(0.5, ge=0.0, description="Least rise in nats that is a spike.")
    limit: int = Field(5, ge=0, description="Bad steps that are passed over before the run stops.")
    limit_steps: Positive = Field(1000, description="Steps after which a bad one is forgotten.")


class HealthConfig(_Table):
    """The `[health]` table: hangs, stragglers, and the check of every machine at the start."""

    hang_timeout_s: float = Field(
        1800.0,
        ge=0.0,
        le=YEAR_S,
        description="Without progress for so long, all ranks write their stacks and end; 0: never.",
    )
    heartbeat_s: float = Field(10.0, gt=0.0, le=YEAR_S, description="Between a rank's heartbeats.")
    straggler_ratio: float = Field(
        1.5, gt=1.0, description="A rank that works so many times the median's seconds is named."
    )
    min_free_memory_gib: float = Field(1.0, ge=0.0, description="Expected on every machine.")
    min_free_disk_gib: float = Field(1.0, ge=0.0, description="Expected where the run is written.")
    max_clock_skew_s: float = Field(5.0, gt=0.0, description="Between the clocks of machines.")
    on_finding: Literal["warn", "stop"] = Field(
        "warn", description="What to do about a finding; a broken device always stops the run."
    )


class MonitorConfig(_Table):
    """The `[monitor]` table: figures for Prometheus."""

    prometheus_port: int = Field(
        0, ge=0, le=65535, description="Port of the metrics endpoint on rank 0's machine; 0: none."
    )
    prometheus_address: str = Field(
        "127.0.0.1", description="Address to serve on; 0.0.0.0 is reachable from other machines."
    )


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
    guard: GuardConfig = Field(GuardConfig(), description="Bad numbers.")
    health: HealthConfig = Field(HealthConfig(), description="Hangs, stragglers, machines.")
    monitor: MonitorConfig = Field(MonitorConfig(), description="Prometheus.")
    launch: LaunchConfig = Field(LaunchConfig(), description="Processes.")

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        if not self.model.causal:
            raise ValueError(
                "model.causal must be true to learn next tokens, got false: such a model sees them"
            )
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
