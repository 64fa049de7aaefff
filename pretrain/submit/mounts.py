"""Visibility of a run's inputs in containers and pods, which see only mounted folders."""

import posixpath
from collections.abc import Sequence
from pathlib import PurePosixPath

from data_pipeline.storage.files import is_remote, local_path
from launch.job import Job
from launch.preflight import Finding
from launch.slurm import container
from pretrain.config import RunConfig


def check_mounts(run: RunConfig, job: Job, launcher: str) -> Finding:
    """Finding on whether shards and tokenizer are in mounted folders.

    Only a warning: an image may contain them, and a cluster may mount further folders by itself.
    """
    if launcher == "kubernetes":
        mount_path = job.config.kubernetes.mount_path
        folders, remedy = [mount_path], f"put it into the claim, below {mount_path}"
    else:
        # HOST:INSIDE, and perhaps :ro
        folders = [mount.split(":")[1] for mount in container.mounts(job)]
        remedy = "add HOST:INSIDE:ro to launch.slurm.mounts"
    hidden = _outside(run, job.working_directory, folders)
    if hidden:
        text = f"{', '.join(hidden)}: in no mounted folder ({', '.join(folders)})"
        return Finding("warn", "mounts", text, f"{remedy}, unless the image or the cluster has it")
    return Finding("ok", "mounts", "shards and tokenizer are in mounted folders")


def _outside(run: RunConfig, root: PurePosixPath, folders: Sequence[str]) -> list[str]:
    sources = [*(dataset.path for dataset in run.data.datasets), run.data.valid]
    local = [str(local_path(path)) for path in sources if path and not is_remote(path)]
    if run.data.tokenizer != "byte":
        local.append(run.data.tokenizer)
    if run.evaluate.every:
        local += map(str, run.evaluate.texts)
    paths = {path: PurePosixPath(posixpath.normpath(root / path)) for path in local}
    return [
        path
        for path, absolute in paths.items()
        if not any(absolute.is_relative_to(folder) for folder in folders)
    ]
