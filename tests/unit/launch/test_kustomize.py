"""The kustomize base, alone and below an overlay that adds a run."""

import os
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

import launch.kubernetes
from launch.kubernetes.render import dump, manifests
from launch.kubernetes.validation import problems
from tests.unit.launch.jobs import make_job

BASE = Path(launch.kubernetes.__path__[0]) / "base"


def kustomize(folder: Path) -> list[dict[str, object]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    text = subprocess.run(
        ["kubectl", "kustomize", folder], check=True, capture_output=True, text=True
    ).stdout
    return list(yaml.safe_load_all(text))


def test_base() -> None:
    documents = kustomize(BASE)
    kinds = sorted(str(document["kind"]) for document in documents)
    assert kinds == ["Namespace", "NetworkPolicy", "PersistentVolumeClaim", "ServiceAccount"]
    for document in documents:
        kubernetes_validate.validate(document, "1.34", strict=True)
        assert problems(document) == []


def test_overlay_with_a_run(tmp_path: Path) -> None:
    table = {"image": "resonance:1", "claim": "workspace", "service_account": "trainer"}
    (tmp_path / "run.yaml").write_text(dump(manifests(make_job(nodes=2, kubernetes=table))))
    base = os.path.relpath(BASE, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        f"namespace: resonance\nresources:\n- {base}\n- run.yaml\n"
    )
    documents = kustomize(tmp_path)
    (job,) = (document for document in documents if document["kind"] == "Job")
    assert job["metadata"]["namespace"] == "resonance"
    claims = {
        one["metadata"]["name"] for one in documents if one["kind"] == "PersistentVolumeClaim"
    }
    assert claims == {"workspace"}
