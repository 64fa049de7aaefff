"""The `[parallel]` table: how a model is laid out over ranks (imports no torch)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]


class ParallelConfig(BaseModel):
    """How a model is laid out over ranks; data ranks are what remains."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
