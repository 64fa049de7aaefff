"""The pods of an Indexed Job, in real containers: they find each other, train and finish."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from launch.kubernetes.render import manifests, rendezvous_secret
from launch.torchrun import make_secret
from pretrain.run_file import load_run
from pretrain.submit.jobs import pods_job_of
from tests.conftest import SmallCorpus
from tests.launch.pods import IMAGE, Pods
from tests.launch.slurm_cluster import wait_for

pytestmark = pytest.mark.system


def test_two_pods_train_and_finish(pods: Pods, small_corpus: SmallCorpus, tmp_path: Path) -> None:
    workspace = pods.folder / "workspace"
    shutil.copytree(small_corpus.train.parent, workspace / "data")
    shutil.copy(small_corpus.tokenizer, workspace / "tokenizer.model")
    path = small_corpus.run_file(tmp_path / "run.toml", output="run")
    text = path.read_text()
    text = text.replace(str(small_corpus.train.parent), "data")
    text = text.replace(str(small_corpus.tokenizer), "tokenizer.model")
    text = text.replace(
        "processes = 2",
        f"""nodes = 2
name = "pods"
stop_lead_s = 30
network_interface = "eth0"
environment = {{ GREETING = "$(HOME) $HOME" }}

[launch.kubernetes]
image = "{IMAGE}"
image_pull_policy = "Never"
claim = "workspace"
python = "{sys.executable}"
cpu = "1"
memory = "2Gi"
shm = "256Mi"
""",
    )
    path.write_text(text)
    for folder in (workspace, *workspace.rglob("*")):
        # what fsGroup does to a new claim
        shutil.chown(folder, 1000, 1000)
    job = pods_job_of(load_run(path))
    documents = [rendezvous_secret(job, make_secret()), *manifests(job)]
    first, second = pods.play(documents, "workspace", workspace)
    wait_for(lambda: "Heartbeat" in heartbeat(pods, first), 60, "a sign of life")
    statuses = [pods.podman("wait", name).strip() for name in (first, second)]
    logs = "".join(pods.logs(name) for name in (first, second))
    assert statuses == ["0", "0"], logs
    state = json.loads((workspace / "run/checkpoints/step-0000006/state.json").read_text())
    assert state["layout"]["ranks"] == 2


def heartbeat(pods: Pods, container: str) -> str:
    """Run the probe as the kubelet does."""
    try:
        pods.podman("exec", container, *pods.probe)
    except RuntimeError as error:
        return str(error)
    return "Heartbeat"
