"""The workers that a configuration asks for."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.build.workers.interface import Workers
from data_pipeline.build.workers.pool import ProcessPool
from data_pipeline.config import BuildConfig


@contextlib.contextmanager
def open_workers(config: BuildConfig, work: Path, mark: Path) -> Iterator[Workers]:
    """The workers of one build.

    Args:
        config: Configuration of the build.
        work: Folder of its unfinished work.
        mark: File in it that says which build it belongs to.

    Raises:
        DataError: The cluster cannot be reached or started.
    """
    if not config.cluster.kind:
        yield ProcessPool(config.num_processes)
        return
    # takes a second
    from data_pipeline.build.workers.cluster import dask_cluster

    with dask_cluster(config.cluster, work, mark) as cluster:
        yield cluster
