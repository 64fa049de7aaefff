"""Metrics of a run: metrics.jsonl, a progress bar, Weights & Biases and a loss plot."""

import json
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipeline.redaction import redact
from pretrain.config import RunConfig
from pretrain.monitoring.jsonl import JsonLines, read_lines
from pretrain.monitoring.prometheus import PrometheusEndpoint
from pretrain.run_file import public_table

Record = dict[str, float]


class Metrics:
    """Outputs of a run's records; only on rank 0."""

    def __init__(self, run: RunConfig, first_step: int, num_parameters: int):
        self.directory = run.train.output
        self.path = self.directory / "metrics.jsonl"
        self._file = self._open(first_step)
        self._bar = tqdm(
            total=run.train.steps,
            initial=first_step,
            desc="pretrain",
            unit="step",
            dynamic_ncols=True,
            # seldom in a log file, often on a terminal
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        )
        self._wandb = _start_wandb(run, num_parameters)
        self._prometheus: PrometheusEndpoint | None = None
        if run.monitor.prometheus_port:
            self._prometheus = PrometheusEndpoint(run.monitor)

    def log(self, record: Record, rank_seconds: Sequence[float] = ()) -> None:
        """Append a record (its key `step` counts from 1) and advance the bar.

        Args:
            record: Figures by name.
            rank_seconds: Working time of each rank.
        """
        self._file.append(record)
        if "loss" in record:
            self._bar.set_postfix(
                loss=f"{record['loss']:.3f}",
                tok_s=f"{record['tokens_per_s']:,.0f}",
                refresh=False,
            )
            self._bar.update(int(record["step"]) - self._bar.n)
        if self._wandb is not None:
            self._wandb.log(record)
        if self._prometheus is not None:
            self._prometheus.update(record)
            self._prometheus.update_ranks(rank_seconds)

    def has_validation(self, step: int) -> bool:
        """Whether a step was validated."""
        return any("valid_loss" in r for r in read_lines(self.path) if r["step"] == step)

    def rewind(self, step: int) -> None:
        """Delete the records after a step, because training repeats from there."""
        self._file.close()
        self._file = self._open(step)

    def _open(self, last_step: int) -> JsonLines:
        kept = [record for record in read_lines(self.path) if record["step"] <= last_step]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        partial.replace(self.path)
        return JsonLines(self.path)

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        self._bar.write(redact(text), file=sys.stderr)

    def close(self) -> None:
        """Finish the bar, the file, W&B, and draw loss.png."""
        self._bar.close()
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()
        if self._prometheus is not None:
            self._prometheus.close()
        try:
            plot_loss(self.path, self.directory / "loss.png")
        except OSError as error:
            # a missing plot must not hide how the run ended
            print(f"{self.directory}/loss.png: {error}", file=sys.stderr)


def plot_loss(metrics: Path, output: Path) -> None:
    """Draw training and validation loss over tokens.

    Args:
        metrics: Path of metrics.jsonl.
        output: Path of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_lines(metrics)
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="tokens", ylabel="loss (nats per token)")
    for key, style in (("loss", {"linewidth": 0.7}), ("valid_loss", {"marker": "o"})):
        points = [(record["tokens"], record[key]) for record in records if key in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=key.replace("_", " "), **style)
    axes.grid(alpha=0.3)
    if records:
        axes.legend()
    figure.savefig(output, dpi=130)


def _start_wandb(run: RunConfig, num_parameters: int) -> Any:
    if run.train.wandb == "disabled":
        return None
    import wandb

    online = bool(os.environ.get("WANDB_API_KEY"))
    command = " ".join(sys.argv)
    started = wandb.init(
        project="resonance",
        id=wandb_id(run.train.output),
        resume="allow",
        name=run.train.output.name,
        dir=run.train.output,
        mode="online" if online else "offline",
        config={**public_table(run), "num_parameters": num_parameters},
        # its description of the machine has the command line, too
        settings=wandb.Settings(
            silent=True, console="off", x_disable_meta=redact(command) != command
        ),
    )
    # W&B's own step counter rejects steps that are repeated after a crash
    started.define_metric("*", step_metric="step")
    return started


def wandb_id(directory: Path) -> str:
    """The W&B id of a run, kept in its directory so that W&B resumes the same run."""
    file = directory / "wandb_id"
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
