"""The rows of a run on this rank."""

from data_pipeline.stream.loader import TrainLoader, build_train_loader
from pretrain.config import RunConfig
from pretrain.objectives.build import preparing_of
from pretrain.parallel.mesh import Mesh


def run_loader(run: RunConfig, mesh: Mesh) -> TrainLoader:
    """The loader of a run's training data.

    Raises:
        DataError: Datasets are unusable.
    """
    return build_train_loader(
        run.data,
        global_batch_size=run.train.global_batch_size,
        micro_batch_size=run.train.micro_batch_size,
        data_rank=mesh.data.rank,
        data_ranks=mesh.data.size,
        row_stages=run.train.batch_warmup,
        length_stages=run.train.length_warmup,
        preparing=preparing_of(run),
    )
