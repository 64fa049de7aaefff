"""`launch check` and submissions: whether a run fits into its GPUs."""

from pathlib import Path
from typing import Any

import pytest

from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.planning import devices as devices_module
from pretrain.submit.memory_check import check_memory

# a GPU on which full recomputation makes the difference
SMALL_GPU = """
[gpus.small]
name = "Small"
memory_gib = 0.7
memory_gb_s = 1000
vector_tflops = 10
tflops = { bfloat16 = 100, float32 = 10 }
link = "nvlink3"
"""


def _run(**changes: Any) -> RunConfig:
    model = {"vocab_size": 512, "dim": 256, "num_layers": 8, "num_heads": 4, "ffn_dim": 512}
    return RunConfig.model_validate(
        {
            "model": model,
            "data": {"sequence_length": 8_192},
            "train": {"global_batch_size": 2, "micro_batch_size": 1},
            "parallel": {"zero_stage": 0},
            "launch": {"processes": 2, "slurm": {"gpus_per_node": 2, **changes}},
        }
    )


@pytest.fixture
def small_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = devices_module.KNOWN.read_text(encoding="utf-8")
    file = tmp_path / "devices.toml"
    file.write_text(known + SMALL_GPU)
    monkeypatch.setattr(devices_module, "KNOWN", file)


@pytest.mark.usefixtures("small_gpu")
def test_a_run_that_does_not_fit_is_refused_with_the_nearest_that_does() -> None:
    (finding,) = check_memory([_run()], "local", "small", force=False)
    assert finding.level == "bad"
    assert "does not fit into the 0.7 GiB of Small: activations" in finding.text
    assert "nearest that fits" in finding.remedy
    assert "GiB: train.activation_checkpointing = 'full'" in finding.remedy
    assert finding.remedy.endswith("; or --force")
    (forced,) = check_memory([_run()], "local", "small", force=True)
    assert (forced.level, forced.text) == ("warn", finding.text)


def test_equal_tasks_of_a_sweep_are_planned_once_for_slurms_gpu() -> None:
    runs = [_run(gpu_type="h100") for _ in range(3)]
    (finding,) = check_memory(runs, "slurm", "", force=False)
    assert finding.level == "ok"
    assert "GiB fits into the 76.1 GiB of H100 SXM" in finding.text


def test_without_a_gpu_nothing_is_planned() -> None:
    assert list(check_memory([_run()], "slurm", "", force=False)) == []
    # Slurm's options say nothing about this machine
    assert list(check_memory([_run(gpu_type="h100")], "local", "", force=False)) == []


def test_an_unknown_gpu_is_refused_and_one_of_slurms_is_named() -> None:
    with pytest.raises(RunError, match=r"--gpu is 'v100'; expected one of a100, h100"):
        list(check_memory([_run()], "local", "v100", force=False))
    (finding,) = check_memory([_run(gpu_type="v100")], "slurm", "", force=False)
    assert finding.level == "warn"
    assert "'v100', a GPU that the planner does not know" in finding.text
