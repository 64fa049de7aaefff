"""Evaluation reads a stranger's checkpoint: its run file permits nothing."""

from data_pipeline.config import DataConfig, StorageConfig
from pretrain.config import RunConfig
from pretrain.evaluation.split import _without_permissions


def test_a_checkpoints_run_file_names_no_cache_and_permits_nothing() -> None:
    storage = StorageConfig(allow_pipe=True, allow_unsafe_members=True, attempts=3)
    given = RunConfig(data=DataConfig(cache="/home/somebody/photos", storage=storage, valid="v"))
    data = _without_permissions(given).data
    assert data.cache == ""
    assert not data.storage.allow_pipe
    assert not data.storage.allow_unsafe_members
    assert (data.valid, data.storage.attempts) == ("v", 3)
