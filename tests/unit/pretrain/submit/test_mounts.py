"""Inputs that a container or a pod does not see are named before it is started."""

from pathlib import PurePosixPath

import pytest

from launch.preflight import Finding
from pretrain.config import RunConfig
from pretrain.submit.jobs import job_of, pods_job_of
from pretrain.submit.mounts import check_mounts

DATA = {"datasets": [{"path": "data/a"}, {"path": "s3://bucket/b"}], "tokenizer": "byte"}


def found(launcher: str, launch: dict[str, object], **data: object) -> Finding:
    run = RunConfig.model_validate({"data": {**DATA, **data}, "launch": launch})
    root = PurePosixPath("/shared/project")
    job = pods_job_of(run) if launcher == "kubernetes" else job_of(run, root=root)
    return check_mounts(run, job, launcher)


@pytest.mark.parametrize(
    ("data", "hidden"),
    [
        ({}, ""),
        ({"valid": "/data/valid"}, ""),
        ({"valid": "file:///corpora/valid"}, "/corpora/valid"),
        ({"tokenizer": "/corpora/tokenizer.model"}, "/corpora/tokenizer.model"),
        ({"datasets": [{"path": "../other"}, {"path": "/database"}]}, "../other, /database"),
    ],
)
def test_container(data: dict[str, object], hidden: str) -> None:
    slurm = {"container": "apptainer", "image": "x.sif", "mounts": ["/host/data:/data:ro"]}
    finding = found("slurm", {"slurm": slurm}, **data)
    assert finding.level == ("warn" if hidden else "ok")
    if hidden:
        assert finding.text.startswith(f"{hidden}: in no mounted folder (/shared/project,")
        assert "launch.slurm.mounts" in finding.remedy


@pytest.mark.parametrize(
    ("path", "level"), [("data/a", "ok"), ("/workspace/data", "ok"), ("/data", "warn")]
)
def test_pod(path: str, level: str) -> None:
    finding = found("kubernetes", {}, datasets=[{"path": path}])
    assert finding.level == level


def test_texts_that_training_evaluates() -> None:
    table = {"data": DATA, "evaluate": {"every": 5, "texts": ["/corpora/book.txt"]}}
    run = RunConfig.model_validate(table)
    finding = check_mounts(run, pods_job_of(run), "kubernetes")
    assert finding.level == "warn"
    assert finding.text.startswith("/corpora/book.txt: in no mounted folder")
