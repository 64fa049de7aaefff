"""A job's secret is made for each submission and shown to nobody; only its pods reach its pods."""

import base64
import os
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml

from launch.job import Job
from launch.kubernetes import client as kubernetes
from launch.kubernetes import pod
from launch.kubernetes.render import dump, manifests, rendezvous_secret
from launch.slurm import client as slurm
from launch.slurm.script import batch_script, secret_path
from launch.torchrun import SECRET_FILE
from tests.unit.launch.jobs import kubernetes_jobs, make_job, slurm_jobs
from tests.unit.launch.stand_ins import write

RANDOM = re.compile(r"[0-9a-f]{64}")


def tables(node: Any) -> Iterator[dict[str, Any]]:
    """All tables inside a manifest."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, dict | list):
            yield from tables(child)


@pytest.mark.parametrize("name", kubernetes_jobs())
def test_pods_of_every_kind_reach_one_another_only(name: str) -> None:
    job = kubernetes_jobs()[name]
    documents = manifests(job)
    (policy,) = [one["spec"] for one in documents if one["kind"] == "NetworkPolicy"]
    labels = policy["podSelector"]["matchLabels"]
    # otherwise it would select the pods of other runs
    assert labels["app.kubernetes.io/instance"] == job.name
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"from": [{"podSelector": {"matchLabels": labels}}]}]
    pods = [
        table["metadata"]["labels"]
        for table in tables(documents)
        if "volumes" in table.get("spec", {}) and "labels" in table.get("metadata", {})
    ]
    assert pods, "no pod template was found"
    assert all(labels.items() <= one.items() for one in pods)


@pytest.mark.parametrize("name", kubernetes_jobs())
def test_rendered_manifests_have_no_secret_but_its_place(name: str) -> None:
    job = kubernetes_jobs()[name]
    text = dump(manifests(job))
    assert text == dump(manifests(job))
    assert not RANDOM.search(text)
    assert not [one for one in yaml.safe_load_all(text) if one["kind"] == "Secret"]
    parts = list(tables(manifests(job)))
    path = PurePosixPath(next(one["value"] for one in parts if one.get("name") == SECRET_FILE))
    mounts = [one for one in parts if one.get("mountPath") == str(path.parent)]
    (volume,) = [one["secret"] for one in parts if isinstance(one.get("secret"), dict)]
    assert mounts == [{"name": "rendezvous", "mountPath": str(path.parent), "readOnly": True}]
    document = rendezvous_secret(job, "s" * 64)
    kubernetes_validate.validate(document, "1.34", strict=True)
    assert document["metadata"]["name"] == volume["secretName"]
    assert base64.b64decode(document["data"][path.name]) == b"s" * 64


def test_one_pod_needs_no_secret() -> None:
    job = make_job(kubernetes={"image": "resonance:1", "claim": "data"})
    assert not pod.has_secret(job)
    assert "rendezvous-" not in dump(manifests(job)).replace("- name: rendezvous", "")
    assert SECRET_FILE not in dump(manifests(job))


def in_folder(job: Job, folder: Path) -> Job:
    """The job with its launch directory in a folder."""
    return job._replace(directory=PurePosixPath(folder / "launch"))


def test_kubectl_alone_gets_the_secret_anew_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    write(programs, "kubectl", f"(cat; echo ---) >>{shlex.quote(str(tmp_path / 'input'))}")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    job = in_folder(kubernetes_jobs()["job.yaml"], tmp_path)
    found = []
    for _ in range(2):
        kubernetes.submit(job, manifests(job))
        documents = filter(None, yaml.safe_load_all((tmp_path / "input").read_text()))
        (tmp_path / "input").unlink()
        (secret,) = [one for one in documents if one["kind"] == "Secret"]
        found.append(base64.b64decode(secret["data"][pod.SECRET_KEY]).decode())
        assert RANDOM.fullmatch(found[-1])
        written = [path.read_bytes() for path in Path(job.directory).iterdir()]
        written.append((programs / "log").read_bytes())
        for form in (found[-1], secret["data"][pod.SECRET_KEY]):
            assert not any(form.encode() in text for text in written)
    assert found[0] != found[1]


def test_slurm_reads_a_private_file(tmp_path: Path) -> None:
    job = in_folder(slurm_jobs()["cpu.sh"], tmp_path)
    path = Path(secret_path(job))
    found = []
    before = os.umask(0)
    try:
        for _ in range(2):
            slurm.write_files(job)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            found.append(path.read_text())
            path.chmod(0o666)
    finally:
        os.umask(before)
    assert found[0] != found[1]
    assert all(RANDOM.fullmatch(text) for text in found)
    others = [file for file in path.parent.iterdir() if file != path]
    assert others
    assert not any(text in file.read_text() for file in others for text in found)
    script = batch_script(job)
    assert f"export {SECRET_FILE}={path}" in script
    assert not RANDOM.search(script)
