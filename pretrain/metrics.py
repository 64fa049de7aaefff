"""What a run tells of itself: metrics.jsonl, a progress bar, Weights & Biases and a loss plot."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pretrain.config import RunConfig

Record = dict[str, float]


def read_metrics(path: Path) -> list[Record]:
    """Records of a metrics.jsonl; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Metrics:
    """Writes every record of a run. Only rank 0 has one."""

    def __init__(self, run: RunConfig, first_step: int, num_parameters: int):
        self.directory = run.train.output
        self.path = self.directory / "metrics.jsonl"
        # what an interrupted run did after its last checkpoint will be done again
        kept = [record for record in read_metrics(self.path) if record["step"] <= first_step]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        partial.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        self._bar = tqdm(
            total=run.train.steps,
            initial=first_step,
            desc="pretrain",
            unit="step",
            dynamic_ncols=True,
            # a log file gets a line now and then, a terminal a lively bar
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        )
        self._wandb = _start_wandb(run, num_parameters)

    def log(self, record: Record) -> None:
        """Append a record (its key `step` counts from 1) and advance the bar."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if "loss" in record:
            self._bar.set_postfix(
                loss=f"{record['loss']:.3f}",
                tok_s=f"{record['tokens_per_s']:,.0f}",
                refresh=False,
            )
            self._bar.update(int(record["step"]) - self._bar.n)
        if self._wandb is not None:
            values = {key: value for key, value in record.items() if key != "step"}
            self._wandb.log(values, step=int(record["step"]))

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Finish the bar, the file, W&B, and draw loss.png."""
        self._bar.close()
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()
        plot_loss(self.path, self.directory / "loss.png")


def plot_loss(metrics: Path, output: Path) -> None:
    """Draw training and validation loss over tokens.

    Args:
        metrics: A metrics.jsonl.
        output: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_metrics(metrics)
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
    return wandb.init(
        project="resonance",
        name=run.train.output.name,
        dir=run.train.output,
        mode="online" if online else "offline",
        config={**run.model_dump(mode="json"), "num_parameters": num_parameters},
        settings=wandb.Settings(silent=True, console="off"),
    )
