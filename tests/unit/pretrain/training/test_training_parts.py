"""Schedule, parameter groups, sampling, metrics."""

import json
from pathlib import Path

import pytest

from pretrain.config import OptimConfig, RunConfig, TrainConfig
from pretrain.monitoring.jsonl import read_lines
from pretrain.monitoring.metrics import Metrics
from pretrain.training.optimizer import parameter_groups
from pretrain.training.schedule import learning_rate_factor
from spectral.config import ModelConfig
from spectral.lm import SpectralLM


def test_learning_rate_warms_up_linearly_and_decays_by_cosine() -> None:
    run = RunConfig(
        optim=OptimConfig(warmup_steps=10, final_ratio=0.2), train=TrainConfig(steps=110)
    )
    assert learning_rate_factor(0, run) == pytest.approx(0.1)
    assert learning_rate_factor(9, run) == pytest.approx(1.0)
    assert learning_rate_factor(10, run) == pytest.approx(1.0)
    assert learning_rate_factor(60, run) == pytest.approx(0.6)
    assert learning_rate_factor(110, run) == pytest.approx(0.2)


def test_only_matrices_decay_and_every_parameter_is_in_one_group() -> None:
    model = SpectralLM(ModelConfig(dim=16, num_layers=1, conv_heads=(2,), vocab_size=10, ffn_dim=8))
    decayed, rest = (
        {id(parameter) for parameter in group["params"]} for group in parameter_groups(model, 0.1)
    )
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert not decayed & rest
    assert len(decayed | rest) == len(list(model.parameters()))
    assert names == {
        "embedding.weight",
        "blocks.0.mixer.in_proj.weight",
        "blocks.0.mixer.out_proj.weight",
        "blocks.0.mixer.decay_proj.weight",
        "blocks.0.feed_forward.gate_up_proj.weight",
        "blocks.0.feed_forward.down_proj.weight",
    }


def test_resumed_metrics_forget_what_will_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0, "tokens": step}) for step in (1, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"step": 4, "lo')
    assert [record["step"] for record in read_lines(path)] == [1, 2, 3]
    metrics = Metrics(RunConfig(train=TrainConfig(output=tmp_path, wandb="disabled")), 2, 0)
    metrics.log({"step": 3, "loss": 0.5, "tokens": 3, "tokens_per_s": 1.0})
    metrics.close()
    assert [record["loss"] for record in read_lines(path)] == [1.0, 1.0, 0.5]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
