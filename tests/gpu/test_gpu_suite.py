"""The suite for machines with a GPU, on one without: it says so, or goes through on the CPU."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.device import Device
from benchmarks.gpu.layers import every_op_pass
from benchmarks.gpu.recorded import recorded_calls
from kernels.op_info import op_infos
from spectral.config import ModelConfig
from spectral.lm import SpectralLM
from tests.distributed.features import EVERYTHING, GATES, config

ROOT = Path(__file__).parents[2]
WITHOUT_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("name", ["tests.gpu", "benchmarks.gpu"])
def test_a_machine_without_gpu_is_told_so_in_a_line(name: str) -> None:
    command = [sys.executable, "-m", name]
    done = subprocess.run(command, cwd=ROOT, env=WITHOUT_GPU, capture_output=True, text=True)
    assert done.returncode == 77
    assert done.stdout == ""
    assert done.stderr == f"{name}: no GPU here (torch.cuda.is_available() is false)\n"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_part_goes_through_on_the_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu", "--device", "cpu", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=WITHOUT_GPU, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "all parts are well" in done.stdout


def test_every_op_is_timed() -> None:
    small = ModelConfig(vocab_size=64, dim=16, num_layers=1, num_heads=2, ffn_dim=16)
    run = every_op_pass(small, 96, torch.device("cpu"), torch.float32)
    assert set(recorded_calls(run)) == {name for info in op_infos().values() for name in info.flops}


@pytest.mark.parametrize(
    "changes",
    [
        # selection needs a number of its data
        EVERYTHING | {"gates": GATES["gates"] | {"selection": False}},
        {"mixers": ("fft", "wavelet")},
        {"mixers": ("fft", "wavelet", "heads"), "causal": False},
    ],
    ids=["everything", "causal", "bidirectional"],
)
def test_all_tensors_of_a_model_are_on_its_device(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without data: an operation on tensors of two devices fails as on a GPU."""
    # torch lacks these for tensors without data
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    monkeypatch.setattr(torch.Tensor, "bincount", lambda x, minlength: x.new_zeros(minlength))
    with torch.device("meta"):
        model = SpectralLM(config(**changes)).train()
        tokens_BT = torch.zeros(2, 45, dtype=torch.long)
    loss = model(tokens_BT, labels_BT=tokens_BT)
    (loss.nll + loss.auxiliary).backward()
    assert {p.grad.device.type for p in model.parameters() if p.grad is not None} == {"meta"}


def test_a_gpu_is_timed_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"name of {device}")
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: calls.append(name))
    for name, value in (("memory_allocated", 3), ("max_memory_allocated", 5)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr("triton.testing.do_bench", lambda run, **_: run() or 2.0)
    device = Device("cuda")
    assert device.name == "name of cuda"
    assert device.seconds(lambda: None, 0.2) == 2e-3
    assert device.wall_s(lambda: calls.append("run")) < 1.0
    assert (device.start_memory(), device.peak_bytes()) == (3, 5)
    order = ["synchronize", "synchronize", "run", "synchronize"]
    assert calls == [*order, "empty_cache", "reset_peak_memory_stats"]
