"""A run as one frozen value: every table of a run file (imports no torch)."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from data_pipeline.config import DataConfig, LocalPath
from data_pipeline.stream.step_sizes import StepSizes
from launch.config import LaunchConfig
from pretrain.health_config import GuardConfig, HealthConfig, MonitorConfig
from pretrain.objective_config import ObjectiveConfig
from pretrain.optim_config import OptimConfig
from pretrain.train_config import EvaluateConfig, TrainConfig
from spectral.config import ModelConfig
from spectral.config_table import Positive, Table


class ParallelConfig(Table):
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


class CheckpointConfig(Table):
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


class RunConfig(Table):
    """A run: all tables of a run file.

    Raises:
        ValueError: An unknown key, a wrong type or an impossible combination.
    """

    model: ModelConfig = Field(ModelConfig(), description="Model architecture.")
    objective: ObjectiveConfig = Field(ObjectiveConfig(), description="What the run learns.")
    data: DataConfig = Field(DataConfig(), description="Training and validation data.")
    optim: OptimConfig = Field(OptimConfig(), description="Optimizer and learning-rate schedule.")
    train: TrainConfig = Field(TrainConfig(), description="Length, batch size and output.")
    parallel: ParallelConfig = Field(ParallelConfig(), description="Layout over ranks.")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="Checkpoints.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="Evaluation during training.")
    guard: GuardConfig = Field(GuardConfig(), description="Response to bad numbers.")
    health: HealthConfig = Field(
        HealthConfig(), description="Hangs, stragglers and checks of machines."
    )
    monitor: MonitorConfig = Field(MonitorConfig(), description="Metrics for Prometheus.")
    launch: LaunchConfig = Field(LaunchConfig(), description="Processes, Slurm, Kubernetes.")

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        if self.train.global_batch_size % self.train.micro_batch_size:
            raise ValueError(
                "train.global_batch_size must be a multiple of train.micro_batch_size, got "
                f"{self.train.global_batch_size} and {self.train.micro_batch_size}"
            )
        problem = (
            self.objective.problem(self.model)
            or self.train.stage_problem()
            or self.optim.schedule_problem(self.train.steps)
            or self._language_model_problem()
        )
        if problem:
            raise ValueError(problem)
        return self

    def _language_model_problem(self) -> str:
        """Why a key about language models does not suit the objective; empty if all do."""
        kind = self.objective.kind
        every = self.evaluate.every
        if every and kind != "next_token":
            return (
                f"evaluate.every is {every} with objective.kind {kind!r}; expected 0, "
                "or 'next_token': texts and tasks are scored by their next tokens"
            )
        if self.optim.scale == "width" and self.model.classes:
            return (
                f"optim.scale is 'width' with model.classes {self.model.classes}; expected 'none': "
                "it has a rule for the read-out of tokens, not for a head of classes"
            )
        return ""

    @property
    def step_sizes(self) -> StepSizes:
        """Windows of every step, and tokens of each window."""
        train, length = self.train, self.data.sequence_length
        return StepSizes(train.global_batch_size, length, train.batch_warmup, train.length_warmup)
