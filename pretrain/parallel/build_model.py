"""This rank's part of a run's model."""

from torch import nn

from pretrain.config import RunConfig
from pretrain.parallel.mesh import Mesh
from pretrain.parallel.split_model import empty_model, finish_model, initialised_parts, split_part
from pretrain.runtime.precision import Precision


def build_model(run: RunConfig, mesh: Mesh) -> nn.Module:
    """A `SpectralLM` or a stage of one, initialised, on the CPU; a collective with stages."""
    if mesh.pipeline.size > 1:
        from pretrain.parallel.pipeline_parallel import PipelinedLM

        return PipelinedLM(run, mesh)
    model = empty_model(run.model)
    for name, part in initialised_parts(model, run.train.seed):
        local_part = split_part(part, name, run.parallel, mesh)
        if local_part is not part:
            setattr(model, name, local_part)
    finish_model(model, run, mesh)
    precision: Precision = model.precision  # type: ignore[assignment]
    model.forward = precision.around(model.forward)  # type: ignore[method-assign]
    return model
