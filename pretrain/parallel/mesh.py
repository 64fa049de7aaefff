"""The ranks of a run, arranged along four axes: tensor, sequence, data, pipeline.

Neighbouring ranks differ in the tensor axis first, in the pipeline axis last, as in Megatron-core.
Data is the same along the tensor and pipeline axes; along the sequence axis it is cut into spans.
ZeRO shards over data and sequence ranks together: to it, a span is one more micro-batch.
"""

from typing import NamedTuple

import torch.distributed as dist

from pretrain.config import ParallelConfig
from pretrain.runtime.ranks import Ranks


class Axis(NamedTuple):
    """This rank's position along an axis of the mesh.

    Attributes:
        size: Number of ranks along the axis.
        rank: Index of this rank along the axis.
        group: Process group; None: all ranks of the run, or this one alone if the size is 1.
    """

    size: int
    rank: int
    group: dist.ProcessGroup | None


class Mesh(NamedTuple):
    """A rank's position along all axes.

    `zero` is the data and the sequence axis together; `expert` is this rank's part of it,
    neighbours that share experts: it splits no tokens.
    """

    tensor: Axis
    sequence: Axis
    data: Axis
    pipeline: Axis
    zero: Axis
    expert: Axis = Axis(1, 0, None)

    @property
    def counts(self) -> bool:
        """Whether a sum over all ranks includes this one's tokens, so that each counts once."""
        return self.tensor.rank == 0 and self.pipeline.rank == self.pipeline.size - 1


def build_mesh(config: ParallelConfig, ranks: Ranks) -> Mesh:
    """Make the process groups of a layout, by Megatron-core; a collective.

    A layout of data ranks alone needs no groups, and does not import Megatron-core.

    Args:
        config: Layout of a run, checked against the number of ranks.
        ranks: Rank of this process and the number of ranks.
    """
    if config.model_ranks == 1 == config.expert:
        alone = Axis(1, 0, None)
        everyone = Axis(ranks.world_size, ranks.rank, None)
        return Mesh(tensor=alone, sequence=alone, data=everyone, pipeline=alone, zero=everyone)
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.tensor,
        pipeline_model_parallel_size=config.pipeline,
        context_parallel_size=config.sequence,
        expert_model_parallel_size=config.expert,
        create_gloo_process_groups=False,
    )
    return Mesh(
        tensor=_axis(parallel_state.get_tensor_model_parallel_group()),
        sequence=_axis(parallel_state.get_context_parallel_group()),
        data=_axis(parallel_state.get_data_parallel_group()),
        pipeline=_axis(parallel_state.get_pipeline_model_parallel_group()),
        zero=_axis(parallel_state.get_data_parallel_group(with_context_parallel=True)),
        expert=_axis(parallel_state.get_expert_model_parallel_group()),
    )


def layer_axis(mesh: Mesh) -> Axis:
    """All ranks that hold parts of this rank's layers: tensor, data and sequence ranks."""
    if mesh.tensor.size == 1:
        return mesh.zero
    from megatron.core import parallel_state

    return _axis(parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True))


def _axis(group: dist.ProcessGroup) -> Axis:
    return Axis(dist.get_world_size(group), dist.get_rank(group), group)


class ModelParallelUnit:
    """DeepSpeed's `mpu`: the groups over which it shards and takes norms.

    It has no sequence methods on purpose: with them, ZeRO-3 shards over data ranks alone and its
    gradients come out wrong. The loss is scaled so that the mean over `zero` is the gradient.
    """

    def __init__(self, mesh: Mesh):
        self._zero, self._tensor = mesh.zero, mesh.tensor

    def get_data_parallel_group(self) -> dist.ProcessGroup | None:
        """Ranks that hold the same part of the model."""
        return self._zero.group

    def get_data_parallel_world_size(self) -> int:
        """Number of ranks that hold the same part of the model."""
        return self._zero.size

    def get_data_parallel_rank(self) -> int:
        """Index of this rank among those."""
        return self._zero.rank

    def get_model_parallel_group(self) -> dist.ProcessGroup | None:
        """Ranks that hold the parts of the same layers."""
        return self._tensor.group

    def get_model_parallel_world_size(self) -> int:
        """Number of ranks that share the same layers."""
        return self._tensor.size

    def get_model_parallel_rank(self) -> int:
        """Index of this rank among those."""
        return self._tensor.rank

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
    get_tensor_model_parallel_rank = get_model_parallel_rank
