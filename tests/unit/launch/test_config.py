"""What a [launch] table may hold, and what is refused with a reason."""

import json
import math

import pytest
from pydantic import ValidationError

from launch.config import LaunchConfig
from launch.field_types import name_of
from launch.slurm_config import time_limit_seconds
from pretrain.config import RunConfig


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


@pytest.mark.parametrize("text", ["UNLIMITED", "infinite", "-1"])
def test_no_time_limit(text: str) -> None:
    assert time_limit_seconds(text) == math.inf
    assert LaunchConfig.model_validate({"slurm": {"time_limit": text}}).slurm.time_limit == text


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
        ({"slurm": {"memory": "64GiB"}}, "such as 64G or 64GB"),
        ({"slurm": {"memory": "1.5G"}}, "whole number"),
        ({"slurm": {"memory": "1G", "mem_per_cpu": "1G"}}, "memory and mem_per_cpu"),
        ({"slurm": {"mem_per_gpu": "1G"}}, "gpus_per_node above 0"),
        ({"slurm": {"partition": "gpu,"}}, "several|gpu-large"),
        ({"slurm": {"gres": "gpu:4", "gpus_per_node": 2}}, "the same number"),
        ({"slurm": {"gres": "gpu:a100:4x"}}, "number of GPUs"),
        ({"slurm": {"gres": "gpu:4", "gpu_type": "a100"}}, "no GPU in gres"),
        ({"slurm": {"gres": "gpu 4"}}, "NAME"),
        ({"slurm": {"licenses": "a b"}}, "licenses"),
        ({"slurm": {"nodelist": ["n1;reboot"]}}, "nodes such as"),
        ({"slurm": {"comment": "a\n#SBATCH --uid=0"}}, "control characters"),
        ({"slurm": {"options": {"time": "5"}}}, r"time is set by launch\.slurm\.time_limit"),
        ({"slurm": {"options": {"tim": "5"}}}, r"tim is set by launch\.slurm\.time_limit"),
        ({"slurm": {"options": {"mem": "5"}}}, r"mem is set by launch\.slurm\.memory"),
        ({"slurm": {"options": {"ntasks-per-node": 4}}}, "set by the launcher"),
        ({"slurm": {"options": {"wait": True}}}, "set by the launcher"),
        ({"slurm": {"options": {"t": "5"}}}, "long names"),
        ({"slurm": {"options": {"--nice": "5"}}}, "long names"),
        ({"slurm": {"options": {"nice=5\n#SBATCH --uid": "0"}}}, "long names"),
        ({"slurm": {"options": {"wckey": "a\n#SBATCH --uid=0"}}}, "control characters"),
        ({"slurm": {"options": {"spread-job": False}}}, "true for an option without"),
        ({"kubernetes": {"cpu": "0"}}, "at least 100m"),
        ({"kubernetes": {"cpu": "4Gi"}}, "CPUs such as 4"),
        ({"kubernetes": {"memory": "512m"}}, "Mi or Gi .*0.512 bytes"),
        ({"kubernetes": {"memory": "16"}}, "Mi or Gi .*16 bytes"),
        ({"kubernetes": {"shm": "0"}}, "Mi or Gi"),
        ({"kubernetes": {"shm": "32Gi"}}, "memory includes /dev/shm"),
        ({"kubernetes": {"claim_size": "500"}}, "Mi or Gi"),
        ({"kubernetes": {"queue": "kueue", "queue_name": "our_queue"}}, "queue's name"),
        ({"kubernetes": {"claim": "a..b"}}, "claim"),
        ({"kubernetes": {"gpu_resource": "gpu"}}, "DOMAIN/NAME"),
        ({"kubernetes": {"image": "Lab:1"}}, "image such as"),
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


@pytest.mark.parametrize("memory", ["", "0", "64G", "64GB", "64gb", "512000"])
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


@pytest.mark.parametrize(
    ("slurm", "gpus"),
    [
        ({"partition": "gpu,gpu-large"}, 0),
        ({"constraint": "GPU_MEM:80GB&[rack1*2|rack2*2]"}, 0),
        ({"gres": "gpu_mem:80GB"}, 0),
        ({"gres": "gpu:a100:4"}, 4),
        ({"gres": "gpu"}, 1),
        ({"gres": "lscratch:100G,gres:gpu:2", "gpus_per_node": 2}, 2),
        ({"gpus_per_node": 8, "mem_per_gpu": "100G"}, 8),
        ({"licenses": "fluent@server:2,other"}, 0),
        ({"options": {"mail-type": "END", "nice": 100, "spread-job": True}}, 0),
        ({"options": {"dependency": "afterok:12", "gres-flags": "enforce-binding"}}, 0),
        ({"deadline": "2027-01-31T18:00"}, 0),
    ],
)
def test_what_sbatch_accepts(slurm: dict[str, object], gpus: int) -> None:
    assert LaunchConfig.model_validate({"slurm": slurm}).slurm.gpus == gpus


def test_no_message_is_a_regular_expression() -> None:
    assert '"pattern"' not in json.dumps(RunConfig.model_json_schema())
