"""metrics.jsonl of a run that is resumed."""

import json
from pathlib import Path

from pretrain.config import RunConfig, TrainConfig
from pretrain.monitoring.jsonl import read_lines
from pretrain.monitoring.metrics import Metrics


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
