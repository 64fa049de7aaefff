"""What a [launch] table may hold, and what is refused with a reason."""

import pytest
from pydantic import ValidationError

from launch.config import LaunchConfig
from launch.field_types import name_of
from launch.slurm_config import time_limit_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("1:00:00", 3600),
        ("2-0", 172_800),
        ("1-12:30", 131_400),
        ("1-12:30:15", 131_415),
    ],
)
def test_time_limit(text: str, seconds: int) -> None:
    assert time_limit_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0:00", "-5", "1h", "1:2:3:4", "1;reboot", "½"])
def test_time_limit_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="time limit above zero"):
        time_limit_seconds(text)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"nodes": 0}, "nodes"),
        ({"nodes": 2, "min_nodes": 3}, "at most nodes"),
        ({"slurm": {"time_limit": "4"}}, "longer than stop_lead_s"),
        ({"slurm": {"partition": "a b"}}, "partition"),
        ({"slurm": {"partition": "gpu\n#SBATCH --account=other"}}, "partition"),
        ({"slurm": {"account": "$(id)"}}, "account"),
        ({"slurm": {"exclude": ["n1;reboot"]}}, "exclude"),
        ({"slurm": {"constraint": "a`id`"}}, "constraint"),
        ({"slurm": {"deadline": "tomorrow"}}, "deadline"),
        ({"slurm": {"container": "pyxis"}}, "belong together"),
        ({"slurm": {"image": "x.sif"}}, "belong together"),
        ({"slurm": {"mounts": ["relative:/x"]}}, "mounts"),
        ({"slurm": {"modules": ["a\nb"]}}, "control characters"),
        ({"slurm": {"partitions": "gpu"}}, "partitions"),
        ({"environment": {"A B": "x"}}, "letters, digits"),
        ({"environment": {"A": "\0"}}, "NUL"),
        ({"environment": {"WANDB_API_KEY": "x"}}, "looks like a secret"),
        ({"environment": {"HF_TOKEN": "x"}}, "looks like a secret"),
        ({"environment": {"secret": "x"}}, "looks like a secret"),
        ({"environment": {"AWS_SECRET_ACCESS_KEY": "x"}}, "looks like a secret"),
        ({"slurm": {"gpu_type": "h100"}}, "requests no GPU"),
        ({"slurm": {"memory": "G"}}, "memory"),
        ({"slurm": {"memory": "64GB"}}, "memory"),
        ({"network_interface": "eth0;id"}, "network_interface"),
        ({"name": "Upper"}, "name"),
        ({"name": "under_score"}, "name"),
        ({"name": "-dash"}, "name"),
        ({"name": "a" * 53}, "name"),
        ({"kubernetes": {"namespace": "Kube System"}}, "namespace"),
        ({"kubernetes": {"namespace": "a.b"}}, "namespace"),
        ({"kubernetes": {"image": "an image"}}, "image"),
        ({"kubernetes": {"claim": "a_b"}}, "claim"),
        ({"kubernetes": {"claim_size": "lots"}}, "claim_size"),
        ({"kubernetes": {"memory": "16GiB"}}, "memory"),
        ({"kubernetes": {"mount_path": "relative"}}, "mount_path"),
        ({"kubernetes": {"mount_path": "/a/../b"}}, "mount_path"),
        ({"kubernetes": {"mount_path": "//"}}, "below /"),
        ({"kubernetes": {"mount_path": "/./"}}, "below /"),
        ({"kubernetes": {"kind": "trainjob", "priority_class": "high"}}, "of its runtime"),
        ({"kubernetes": {"kind": "trainjob", "image_pull_policy": "Always"}}, "of its runtime"),
        ({"kubernetes": {"kind": "trainjob", "keep_s": 60}}, "of its runtime"),
        ({"kubernetes": {"queue": "kueue"}}, "belong together"),
        ({"kubernetes": {"kind": "trainjob", "queue": "volcano", "queue_name": "q"}}, "runtime"),
        ({"kubernetes": {"node_selector": {"a b": "c"}}}, "node_selector"),
        ({"kubernetes": {"user": 0}}, "user"),
        ({"kubernetes": {"secret_keys": ["A-B"]}}, "secret_keys"),
    ],
)
def test_refused(table: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        LaunchConfig.model_validate(table)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("novels", "novels"),
        ("Novels 2, third try", "novels-2-third-try"),
        ("2027-01", "run"),
        ("", "run"),
        ("$(rm -rf ~)", "rm-rf"),
        ("文字", "run"),
        ("a" * 80, "a" * 52),
    ],
)
def test_names_made_of_paths_are_names(text: str, name: str) -> None:
    assert name_of(text) == name
    assert LaunchConfig(name=name).name == name


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "KEYBOARD", "MONKEY_PATCH", "_"])
def test_names_that_hold_a_secret_word_by_chance(name: str) -> None:
    assert LaunchConfig(environment={name: "1"}).environment == {name: "1"}


@pytest.mark.parametrize("memory", ["", "0", "64G", "512000"])
def test_memory(memory: str) -> None:
    assert LaunchConfig.model_validate({"slurm": {"memory": memory}}).slurm.memory == memory


@pytest.mark.parametrize("path", ["/data", "/data/", "//data", "/./data/."])
def test_mount_path_has_one_spelling(path: str) -> None:
    table = {"kubernetes": {"mount_path": path}}
    assert LaunchConfig.model_validate(table).kubernetes.mount_path == "/data"


def test_number_of_machines() -> None:
    assert LaunchConfig(nodes=4).nnodes == "4"
    assert LaunchConfig(nodes=4, min_nodes=4).nnodes == "4"
    assert LaunchConfig(nodes=4, min_nodes=2).nnodes == "2:4"
