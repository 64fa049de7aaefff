"""Metrics of a run: metrics.jsonl, a progress bar, reporters and a loss plot."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from data_pipeline.redaction import redact
from launch.json_lines import Check, read_lines
from pretrain.config import RunConfig
from pretrain.monitoring.jsonl import JsonLines, Record, is_metrics, is_spectrum, read_metrics
from pretrain.monitoring.prometheus import PrometheusEndpoint
from pretrain.monitoring.tensorboard import TensorBoardFolder
from pretrain.monitoring.wandb_run import WandbRun, wandb_is_wanted

# by the filter's name and the figure's, a number for each head
Spectrum = dict[str, dict[str, list[float]]]


class Reporter(Protocol):
    """An output of records beyond metrics.jsonl."""

    def log(self, record: Record, rank_seconds: Sequence[float], /) -> None:
        """Show a record, and the working time of each rank."""

    def log_spectrum(self, step: int, spectrum: Spectrum, /) -> None:
        """Show figures of the filters."""

    def close(self) -> None:
        """Show what is left to be shown."""


class Metrics:
    """Outputs of a run's records; only on rank 0.

    A reporter that fails, at the start or later, is named once and left out.
    """

    def __init__(self, run: RunConfig, first_step: int, num_parameters: int):
        self.directory = run.train.output
        self.path = self.directory / "metrics.jsonl"
        self._spectra_path = self.directory / "spectrum.jsonl"
        self._file, self._spectra = self._open(first_step)
        self._bar = tqdm(
            total=run.train.steps,
            initial=first_step,
            desc="pretrain",
            unit="step",
            dynamic_ncols=True,
            # seldom in a log file, often on a terminal
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        )
        self._reporters: dict[str, Reporter] = {}
        if wandb_is_wanted(run):
            self._start("Weights & Biases", lambda: WandbRun(run, num_parameters))
        if run.monitor.prometheus_port:
            self._start("Prometheus", lambda: PrometheusEndpoint(run.monitor))
        if run.monitor.tensorboard:
            folder = self.directory / "tensorboard"
            self._start("TensorBoard", lambda: TensorBoardFolder(folder, first_step))

    def log(self, record: Record, rank_seconds: Sequence[float] = ()) -> None:
        """Append a record (its key `step` counts from 1) and advance the bar.

        Args:
            record: Figures by name.
            rank_seconds: Working time of each rank.
        """
        self._file.append(record)
        if "loss" in record:
            self._attempt("progress bar", lambda: self._advance(record))
        self._report(lambda reporter: reporter.log(record, rank_seconds))

    def log_spectrum(self, step: int, spectrum: Spectrum) -> None:
        """Append the figures of the filters after a step."""
        self._spectra.append({"step": step, "filters": spectrum})
        self._report(lambda reporter: reporter.log_spectrum(step, spectrum))

    def _report(self, show: Callable[[Reporter], None]) -> None:
        for name, reporter in list(self._reporters.items()):
            if not self._attempt(name, partial(show, reporter)):
                del self._reporters[name]

    def _start(self, name: str, start: Callable[[], Reporter]) -> None:
        def register() -> None:
            self._reporters[name] = start()

        self._attempt(name, register)

    def _attempt(self, name: str, act: Callable[[], None]) -> bool:
        """Whether a function ran without an error; an error is reported under the name."""
        try:
            act()
        except Exception as error:  # noqa: BLE001
            # a foreign library, or a terminal that is gone: training does not depend on it
            self.say(f"{name}: {' '.join(str(error).split())}; training continues without it")
            return False
        return True

    def _advance(self, record: Record) -> None:
        self._bar.set_postfix(
            loss=f"{record['loss']:.3f}", tok_s=f"{record['tokens_per_s']:,.0f}", refresh=False
        )
        self._bar.update(int(record["step"]) - self._bar.n)

    def has(self, key: str, step: int) -> bool:
        """Whether a record of a step has a key."""
        return any(key in record for record in read_metrics(self.path) if record["step"] == step)

    def rewind(self, step: int) -> None:
        """Delete the records after a step, because training repeats from there."""
        self._file.close()
        self._spectra.close()
        self._file, self._spectra = self._open(step)

    def _open(self, last_step: int) -> tuple[JsonLines, JsonLines]:
        return (
            _opened(self.path, is_metrics, last_step),
            _opened(self._spectra_path, is_spectrum, last_step),
        )

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        try:
            self._bar.write(redact(text), file=sys.stderr)
        except (OSError, ValueError):
            # the terminal is gone or standard error closed: there is nowhere to say so
            self._bar.disable = True

    def close(self) -> None:
        """Finish the bar, the file and the reporters, and draw loss.png."""
        self._file.close()
        self._spectra.close()
        self._attempt("progress bar", self._bar.close)
        for name, reporter in self._reporters.items():
            self._attempt(name, reporter.close)
        plot = self.directory / "loss.png"
        self._attempt(str(plot), lambda: plot_loss(self.path, plot))


def _opened(path: Path, is_record: Check, last_step: int) -> JsonLines:
    """A file of records without those after a step."""
    file = JsonLines(path, is_record)
    records = read_lines(path, is_record)
    kept = [record for record in records if record["step"] <= last_step]
    if kept == records:
        return file
    file.close()
    shorter = path.with_suffix(".partial")
    shorter.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    shorter.replace(path)
    return JsonLines(path, is_record)


def plot_loss(metrics: Path, output: Path) -> None:
    """Draw training and validation loss over tokens.

    Args:
        metrics: Path of metrics.jsonl.
        output: Path of the PNG.
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
