"""The steps from a whole model to this rank's part of it.

One ordered procedure: every part of the whole model is made and initialised in turn, from one
random state, as on one device; expert or tensor parallelism cuts it, or it is left to another
stage; it is settled on its device, where ZeRO 3 shards it; then the model receives its layout. At
no time is there more than one whole part besides what this rank keeps.
"""

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from pretrain.config import ParallelConfig, RunConfig
from pretrain.parallel.mesh import Mesh
from pretrain.parallel.placement import Placement, place
from pretrain.parallel.rng import SeededLayerRng
from pretrain.runtime.precision import Precision
from spectral.block import Block
from spectral.config import ModelConfig
from spectral.layout import Layout
from spectral.lm import SpectralLM
from spectral.models import model_class
from spectral.seq2seq import SpectralSeq2Seq

# fills a whole parameter, by its name, after it was initialised
Fill = Callable[[str, nn.Parameter], None]
# what happens to a part as soon as this rank has its piece, before the next part is made
Settle = Callable[[nn.Module], None]


def stay(_part: nn.Module) -> None:
    """Leave a part on the CPU, whole."""


def empty_model(config: ModelConfig) -> SpectralLM:
    """The whole model, without data."""
    with torch.device("meta"):
        return model_class(config)(config)


def initialised_parts(
    model: SpectralLM, run: RunConfig, fill: Fill | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """Parts of the model, initialised one by one: a seed makes the same model in any layout."""
    torch.manual_seed(run.train.seed)
    for name, part in model.parts():
        part.to_empty(device="cpu")
        part.reset_parameters()  # type: ignore[operator]
        if name == "final_norm" and run.optim.scale == "width":
            # the read-out sums over the width (`pretrain/training/width_scale.py`)
            with torch.no_grad():
                cast(Tensor, part.weight).mul_(run.optim.base_width / run.model.dim)
        for key, parameter in part.named_parameters():
            if fill is not None:
                fill(f"{name}.{key}", parameter)
            place(parameter, Placement(f"{name}.{key}", tuple(parameter.shape)))
        yield name, part


def split_part(part: nn.Module, name: str, parallel: ParallelConfig, mesh: Mesh) -> nn.Module:
    """This rank's piece of a part: the part itself, cut in place, or a new module."""
    if mesh.expert.size > 1 and isinstance(part, Block):
        from pretrain.parallel.expert_parallel import share_experts

        share_experts(part, name, mesh.expert)
    if mesh.tensor.size == 1 or name in ("final_norm", "source_norm", "head"):
        return part
    if isinstance(part, Block):
        from pretrain.parallel.tensor_parallel import split_block

        split_block(part, name, mesh.tensor, shard=parallel.shard_activations)
        return part
    from pretrain.parallel.vocab_parallel import split_embedding

    # building it draws random numbers, which other layouts do not draw
    with torch.random.fork_rng(devices=[]):
        return split_embedding(part, name, mesh.tensor)  # type: ignore[arg-type]


def build_layout(run: RunConfig, mesh: Mesh, first_layer: int = 0) -> Layout:
    """Access of this rank's layers to other ranks.

    Args:
        run: The run.
        mesh: This rank's position.
        first_layer: Number of this rank's first block in the whole model.
    """
    layout = Layout(rng=SeededLayerRng(first_layer))
    if mesh.sequence.size > 1:
        from pretrain.parallel.sequence_parallel import RankSpan
        from pretrain.parallel.transposed_sequences import RankTransposition

        layout = layout._replace(
            span=RankSpan(mesh.sequence), transposition=RankTransposition(mesh.sequence)
        )
    if mesh.expert.size > 1:
        from pretrain.parallel.expert_parallel import RankExpertDispatch

        layout = layout._replace(experts=RankExpertDispatch(mesh.expert))
    if mesh.tensor.size > 1:
        from pretrain.parallel.expert_parallel import TensorExpertDispatch
        from pretrain.parallel.tensor_parallel import RankHeadGroup
        from pretrain.parallel.vocab_parallel import VocabParallelLoss

        layout = layout._replace(
            heads=RankHeadGroup(mesh.tensor),
            experts=TensorExpertDispatch(mesh.tensor),
            cross_entropy=VocabParallelLoss(
                mesh.tensor, run.model.vocab_size, shard=run.parallel.shard_activations
            ),
        )
    return layout


def finish_model(model: SpectralLM, run: RunConfig, mesh: Mesh, first_layer: int = 0) -> None:
    """Set a model's layout, precision and memory savings.

    Args:
        model: Model with this rank's parts.
        run: The run.
        mesh: This rank's position.
        first_layer: Number of this rank's first block in the whole model.
    """
    model.layout = build_layout(run, mesh, first_layer)
    if mesh.tensor.size > 1 and run.parallel.shard_activations:
        from pretrain.parallel.activation_sharding import share_activations

        share_activations(model, mesh.tensor)
    if run.train.activation_checkpointing != "none":
        from pretrain.parallel.activation_checkpointing import checkpoint_activations

        checkpoint_activations(model.blocks, run.train)
        if isinstance(model, SpectralSeq2Seq):
            checkpoint_activations(model.source_blocks, run.train)
    model.z_weight = run.train.z_loss
    model.precision = Precision(run.train.precision)  # type: ignore[assignment]
