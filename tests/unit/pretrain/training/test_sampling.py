"""Utilisation and time by part of a step."""

import time
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from pretrain.config import RunConfig
from pretrain.monitoring.components import component_of
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.training.sampling.parts import StepParts
from pretrain.training.sampling.utilisation import Utilisation, flops_per_token, table_peak
from spectral.config import ModelConfig

CPU = torch.device("cpu")


def test_operations_of_a_model_of_matrices() -> None:
    """Of recall heads, by hand: 6 per number of a matrix, and the products of the chunks."""
    config = ModelConfig(
        vocab_size=512, dim=64, num_layers=1, num_heads=2, conv_heads=(0,), ffn_dim=96
    )
    matrices = 512 * 64 + 5 * 64 * 64 + 64 * 2 + 3 * 64 * 96
    found = flops_per_token(config, 256)
    assert 6 * matrices < found < 1.4 * 6 * matrices


@pytest.mark.parametrize("model", [{"mixers": ("fft",)}, {"gates": {"selection": True}}])
def test_operations_of_models_whose_shapes_depend_on_values(model: dict[str, object]) -> None:
    small = {"vocab_size": 512, "dim": 64, "num_layers": 1, "num_heads": 4, "conv_heads": (4,)}
    assert flops_per_token(ModelConfig.model_validate(small | model), 128) > 0


def test_share_of_a_configured_peak() -> None:
    run = RunConfig.model_validate({"monitor": {"peak_tflops": 2.0}})
    with mock.patch(f"{Utilisation.__module__}.flops_per_token", return_value=1e9):
        assert Utilisation(run, CPU, 4).share(1000.0) == pytest.approx(1e12 / 8e12)
        measured = Utilisation(RunConfig(), CPU, 1).share(1.0)
    # a processor does between 10^8 and 10^13 operations a second
    assert measured is not None
    assert 1e-4 < measured < 10


def test_peaks_of_the_planner_by_the_name_of_a_gpu() -> None:
    assert table_peak("NVIDIA H100 80GB HBM3", torch.bfloat16) == 989e12
    assert table_peak("NVIDIA A100-SXM4-80GB", torch.float32) == 19.5e12
    assert table_peak("GeForce 256", torch.bfloat16) == 0.0


def test_seconds_of_phases_and_collectives(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path, 0)
    parts = StepParts(heartbeat, CPU)
    original = dist.barrier

    def wait() -> None:
        time.sleep(0.02)

    with mock.patch.object(dist, "barrier", wait):
        slow = dist.barrier
        parts.start(0.5)
        heartbeat.beat("forward pass 1")
        dist.barrier()
        heartbeat.beat("backward pass 1")
        time.sleep(0.05)
        heartbeat.beat("a phase that is no part")
        seconds = parts.stop()
        assert dist.barrier is slow
    assert dist.barrier is original
    heartbeat.beat("forward pass 2")
    assert parts.seconds == seconds
    assert seconds["data"] == 0.5
    assert 0.02 <= seconds["communication"] <= seconds["forward"]
    assert seconds["backward"] >= 0.05


def test_parameters_have_components() -> None:
    names = {
        "embedding.weight": "embedding",
        "blocks.0.mixer.filter.residue": "filters",
        "blocks.0.mixer.filter.gate.threshold_H": "gates",
        "blocks.0.mixer.in_proj.weight": "mixers",
        "blocks.0.feed_forward.down.weight": "feed_forward",
        "blocks.0.mixer_norm.weight": "norms",
        "final_norm.weight": "norms",
    }
    assert {name: component_of(name) for name in names} == names
