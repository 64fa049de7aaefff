"""The steps from a whole model to this rank's part of it.

One ordered procedure: every part of the whole model is made and initialised in turn, from one
random state, as on one device; expert or tensor parallelism cuts it, or it is left to another
stage; then the layers learn of their span. At no time is there more than one whole part beside what
this rank keeps.
"""

from collections.abc import Iterator

import torch
from torch import nn

from pretrain.config import ParallelConfig, RunConfig
from pretrain.parallel.mesh import Mesh
from pretrain.parallel.placement import Placement, place
from pretrain.parallel.rng import LayerRng
from pretrain.runtime.precision import Precision
from spectral.block import Block
from spectral.config import ModelConfig
from spectral.feed_forward.experts import ExpertsFeedForward
from spectral.lm import SpectralLM


def empty_model(config: ModelConfig) -> SpectralLM:
    """The whole model without data."""
    with torch.device("meta"):
        return SpectralLM(config)


def initialised_parts(model: SpectralLM, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Give one part after the other its data: each seed makes one model, whatever the layout."""
    torch.manual_seed(seed)
    for name, part in model.parts():
        part.to_empty(device="cpu")
        part.reset_parameters()  # type: ignore[operator]
        for key, parameter in part.named_parameters():
            place(parameter, Placement(f"{name}.{key}", tuple(parameter.shape)))
        yield name, part


def split_part(part: nn.Module, name: str, parallel: ParallelConfig, mesh: Mesh) -> nn.Module:
    """This rank's piece of a part: the part itself, changed, or another in its place."""
    if mesh.expert.size > 1 and isinstance(part, Block):
        from pretrain.parallel.expert_parallel import share_experts

        share_experts(part, name, mesh.expert)
    if mesh.tensor.size == 1 or name == "final_norm":
        return part
    if isinstance(part, Block):
        from pretrain.parallel.tensor_parallel import split_block

        split_block(part, name, mesh.tensor, shard=parallel.shard_activations)
        return part
    from pretrain.parallel.vocab_parallel import split_embedding

    # what is built here draws numbers of its own, which other layouts do not
    with torch.random.fork_rng(devices=[]):
        return split_embedding(part, name, mesh.tensor)  # type: ignore[arg-type]


def finish_model(model: SpectralLM, run: RunConfig, mesh: Mesh, first_layer: int = 0) -> None:
    """Hand the layers what reaches other ranks, seeds for their noise, and what saves memory.

    Args:
        model: With the parts that this rank has.
        run: The run.
        mesh: Where this rank stands.
        first_layer: Number of its first block in the whole model.
    """
    if mesh.sequence.size > 1:
        from pretrain.parallel.sequence_parallel import RankSpan

        model.span = RankSpan(mesh.sequence)
    if mesh.tensor.size > 1:
        from pretrain.parallel.vocab_parallel import VocabParallelLoss

        shard = run.parallel.shard_activations
        model.cross_entropy = VocabParallelLoss(mesh.tensor, model.config.vocab_size, shard=shard)
        if shard:
            from pretrain.parallel.activation_sharding import share_activations

            share_activations(model, mesh.tensor)
    for block in model.blocks:
        block.mixer.span = model.span  # type: ignore[union-attr]
        if isinstance(block.feed_forward, ExpertsFeedForward):
            block.feed_forward.span = model.span
    if run.train.activation_checkpointing != "none":
        from pretrain.parallel.activation_checkpointing import checkpoint_activations

        checkpoint_activations(model.blocks, run.train)
    model.precision = Precision(run.train.precision)  # type: ignore[assignment]
    noise = LayerRng()
    model.noise = noise  # type: ignore[assignment]
    # around what is recomputed: a pipeline has gone on to another micro-batch by then
    for layer, block in enumerate(model.blocks, start=first_layer):
        noise.attach(block, layer)
