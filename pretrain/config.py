"""A run as one frozen value: every table of a run file (imports no torch)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_pipeline.config import DataConfig, LocalPath
from launch.config import LaunchConfig
from spectral.config import ModelConfig

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
# longest timeout: system timers overflow after a few centuries
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


class TrainConfig(_Table):
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
        "on GPUs that support it and float32 elsewhere.",
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


class ParallelConfig(_Table):
    """The `[parallel]` table: the layout of a model over ranks; the rest are data ranks."""

    tensor: Positive = Field(
        1,
        description="Tensor-parallel ranks, which share the heads, hidden channels and vocabulary "
        "of every layer.",
    )
    shard_activations: bool = Field(
        False,
        description="Also shard the activations between layers over the tensor ranks, by token "
        "(Megatron's sequence parallelism).",
    )
    pipeline: Positive = Field(
        1, description="Pipeline stages, which share the layers of the model."
    )
    sequence: Positive = Field(
        1,
        description="Sequence-parallel ranks (context parallelism), each with one span of every "
        "sequence.",
    )
    expert: Positive = Field(
        1,
        description="Expert-parallel ranks: data and sequence ranks that share the experts of "
        "every layer.",
    )
    data: int = Field(
        0,
        ge=0,
        description="Data-parallel ranks; 0 for all remaining ranks. With launch.min_nodes, fewer "
        "when machines are lost.",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1,
        description="DeepSpeed ZeRO stage: what data and sequence ranks shard (1: optimizer "
        "states; 2: also gradients; 3: also parameters).",
    )
    offload_optimizer: Literal["none", "cpu", "nvme"] = Field(
        "none", description="Memory to which ZeRO moves optimizer states; nvme needs stage 3."
    )
    offload_parameters: Literal["none", "cpu", "nvme"] = Field(
        "none", description="Memory to which ZeRO-3 moves parameters that are not in use."
    )
    nvme_path: LocalPath = Field(
        Path("/local_nvme"), description="Folder for nvme offload, on the disk of each node."
    )

    @property
    def model_ranks(self) -> int:
        """Ranks that work on the same tokens or on spans of the same sequences."""
        return self.tensor * self.pipeline * self.sequence


class CheckpointConfig(_Table):
    """The `[checkpoint]` table: when checkpoints are written, and which are kept."""

    every: int = Field(
        100, ge=0, description="Steps between checkpoints; 0 for the last step only."
    )
    keep_last: Positive = Field(2, description="Number of newest complete checkpoints to keep.")
    keep_every: int = Field(
        0, ge=0, description="Also keep checkpoints at multiples of this step; 0 for none."
    )
    asynchronous: bool = Field(
        True,
        description="Write in the background: training waits only for a copy to host memory.",
    )
    remote: str = Field(
        "",
        description="Object store to which complete checkpoints are also copied, for example "
        "s3://bucket/run; a run without local checkpoints resumes from there. A failed upload is "
        "retried with the next checkpoint.",
    )
    on_error: Literal["continue", "stop"] = Field(
        "continue",
        description="Response to a checkpoint that cannot be written (full disk): continue "
        "training, or stop. A run's last checkpoint must be written either way; with stop, it is "
        "also an error if remote then lacks one.",
    )


class GuardConfig(_Table):
    """The `[guard]` table: the response to a step with bad numbers, before it is applied."""

    on_nonfinite: Literal["stop", "skip", "rollback"] = Field(
        "skip",
        description="Response to a NaN or infinite loss or gradient: stop, skip the data of the "
        "step, or also roll back to the newest checkpoint.",
    )
    on_spike: Literal["note", "stop", "skip", "rollback"] = Field(
        "note", description="Response to a sudden rise of the loss: as above, or only record it."
    )
    spike_history: int = Field(
        100,
        ge=10,
        description="Number of recent losses that a spike is measured against; none is detected "
        "before there are that many.",
    )
    spike_sigmas: float = Field(
        10.0,
        gt=0.0,
        description="Robust standard deviations above the median loss beyond which it is a spike.",
    )
    spike_rise: float = Field(
        0.5, ge=0.0, description="Minimum rise above the median, in nats, of a spike."
    )
    limit: int = Field(5, ge=0, description="Bad steps that are skipped before the run stops.")
    limit_steps: Positive = Field(
        1000, description="Steps after which a bad step no longer counts towards limit."
    )


class HealthConfig(_Table):
    """The `[health]` table: hangs, stragglers and the check of every machine at the start."""

    hang_timeout_s: float = Field(
        1800.0,
        ge=0.0,
        le=YEAR_S,
        description="Seconds without progress after which all ranks write their stacks and exit; "
        "0 for never.",
    )
    heartbeat_s: float = Field(10.0, gt=0.0, le=YEAR_S, description="Seconds between heartbeats.")
    straggler_ratio: float = Field(
        1.5,
        gt=1.0,
        description="Multiple of the median working time above which a rank is reported as a "
        "straggler.",
    )
    min_free_memory_gib: float = Field(
        1.0, ge=0.0, description="Minimum free memory of every machine, in GiB."
    )
    min_free_disk_gib: float = Field(
        1.0, ge=0.0, description="Minimum free disk space for the run directory, in GiB."
    )
    max_clock_skew_s: float = Field(
        5.0, gt=0.0, description="Maximum difference between the clocks of machines, in seconds."
    )
    on_finding: Literal["warn", "stop"] = Field(
        "warn", description="Response to a finding; a broken device always stops the run."
    )


class MonitorConfig(_Table):
    """The `[monitor]` table: metrics for Prometheus."""

    prometheus_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of the metrics endpoint on rank 0's machine; 0 for none.",
    )
    prometheus_address: str = Field(
        "127.0.0.1",
        description="Address of the metrics endpoint; 0.0.0.0 is reachable from other machines.",
    )


class RunConfig(_Table):
    """A run: all tables of a run file.

    Raises:
        ValueError: An unknown key, a wrong type or an impossible combination.
    """

    model: ModelConfig = Field(ModelConfig(), description="Model architecture.")
    data: DataConfig = Field(DataConfig(), description="Training and validation data.")
    optim: OptimConfig = Field(OptimConfig(), description="Optimizer and learning-rate schedule.")
    train: TrainConfig = Field(TrainConfig(), description="Length, batch size and output.")
    parallel: ParallelConfig = Field(ParallelConfig(), description="Layout over ranks.")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="Checkpoints.")
    guard: GuardConfig = Field(GuardConfig(), description="Response to bad numbers.")
    health: HealthConfig = Field(
        HealthConfig(), description="Hangs, stragglers and checks of machines."
    )
    monitor: MonitorConfig = Field(MonitorConfig(), description="Metrics for Prometheus.")
    launch: LaunchConfig = Field(LaunchConfig(), description="Processes, Slurm, Kubernetes.")

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        if not self.model.causal:
            raise ValueError(
                "model.causal must be true to predict next tokens, got false: such a model reads "
                "the tokens that it would predict"
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
