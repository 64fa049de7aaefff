"""Figures of parts and spectra in TensorBoard, Prometheus and W&B."""

import sys
import urllib.request
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from launch.json_lines import read_lines
from pretrain.config import RunConfig
from pretrain.health_config import MonitorConfig
from pretrain.monitoring.metrics import Metrics
from pretrain.monitoring.prometheus import PrometheusEndpoint
from pretrain.monitoring.wandb_run import WandbRun

RECORD = {
    "step": 3,
    "tokens": 9,
    "loss": 2.0,
    "tokens_per_s": 5.0,
    "seconds/forward": 0.25,
    "seconds/data": 0.5,
}
SPECTRUM = {"blocks.0.mixer.filter": {"entropy": [0.5, 0.75]}}


def _metrics(folder: Path, first_step: int = 0, **monitor: object) -> Metrics:
    train = {"output": str(folder), "wandb": "disabled"}
    run = RunConfig.model_validate({"train": train, "monitor": monitor})
    return Metrics(run, first_step, 0)


def test_tensorboard_has_figures_and_histograms(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = _metrics(tmp_path, tensorboard=True)
    metrics.log(RECORD)
    metrics.log_spectrum(3, SPECTRUM)
    metrics.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert "seconds/forward" in tags["scalars"]
    assert "loss" in tags["scalars"]
    assert [event.step for event in events.Scalars("loss")] == [3]
    assert tags["histograms"] == ["entropy/blocks.0.mixer.filter"]


def test_a_missing_tensorboard_is_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch.dict(sys.modules, {"torch.utils.tensorboard": None}):
        metrics = _metrics(tmp_path, tensorboard=True)
    metrics.log(RECORD)
    metrics.close()
    said = capsys.readouterr().err
    assert said.count("monitor.tensorboard is true, and the package tensorboard") == 1
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 1


def test_parts_are_labels_for_prometheus() -> None:
    endpoint = PrometheusEndpoint(MonitorConfig(prometheus_port=_unused_port()))
    try:
        endpoint.log(RECORD, [])
        endpoint.log(RECORD | {"seconds/forward": 0.125}, [])
        with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        endpoint.close()
    assert 'resonance_seconds{part="forward"} 0.125' in text
    assert 'resonance_seconds{part="data"} 0.5' in text
    assert "resonance_loss 2.0" in text


def test_wandb_gets_histograms(tmp_path: Path) -> None:
    run = mock.Mock()
    train = {"output": str(tmp_path)}
    with mock.patch("wandb.init", return_value=run):
        reporter = WandbRun(RunConfig.model_validate({"train": train}), 0)
    reporter.log_spectrum(3, SPECTRUM)
    sent: dict[str, Any] = run.log.call_args.args[0]
    assert sent["step"] == 3
    assert sum(sent["entropy/blocks.0.mixer.filter"].histogram) == 2


def test_resumed_spectra_forget_what_will_be_done_again(tmp_path: Path) -> None:
    metrics = _metrics(tmp_path)
    for step in (1, 2, 3):
        metrics.log_spectrum(step, SPECTRUM)
    metrics.rewind(2)
    metrics.close()
    _metrics(tmp_path, first_step=1).close()
    records = read_lines(tmp_path / "spectrum.jsonl")
    assert [record["step"] for record in records] == [1]


def _unused_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
