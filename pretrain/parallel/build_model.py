"""This rank's part of a run's model."""

from torch import nn

from pretrain.config import RunConfig
from pretrain.parallel.mesh import Mesh
from pretrain.parallel.split_model import (
    Fill,
    Settle,
    empty_model,
    finish_model,
    initialised_parts,
    split_part,
    stay,
)
from pretrain.runtime.precision import Precision


def build_model(
    run: RunConfig, mesh: Mesh, settle: Settle = stay, fill: Fill | None = None
) -> nn.Module:
    """A `SpectralLM` or a stage of one, initialised; a collective with stages.

    Args:
        run: The run.
        mesh: This rank's position.
        settle: Moves each part of the model to its device, and shards it if the run does.
        fill: Fills parameters of a new model from those of another.
    """
    if mesh.pipeline.size > 1:
        from pretrain.parallel.pipeline_parallel import PipelinedLM

        return PipelinedLM(run, mesh, settle, fill)
    model = empty_model(run.model)
    for name, part in initialised_parts(model, run, fill):
        local_part = split_part(part, name, run.parallel, mesh)
        if local_part is not part:
            setattr(model, name, local_part)
        settle(local_part)
    finish_model(model, run, mesh)
    if run.train.compile:
        from pretrain.parallel.compiled_blocks import compile_blocks

        compile_blocks(model, mesh)
    precision: Precision = model.precision  # type: ignore[assignment]
    model.forward = precision.around(model.forward)  # type: ignore[method-assign]
    return model
