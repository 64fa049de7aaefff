"""A run's metrics for TensorBoard, if `[monitor]` wants them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.errors import RunError
from pretrain.monitoring.jsonl import Record


class TensorBoardFolder:
    """Event files: a scalar for each figure, and histograms over the heads of each filter.

    Args:
        folder: The folder.
        first_step: Step that the run starts from; later ones of an earlier start are hidden.

    Raises:
        RunError: The package is missing.
    """

    def __init__(self, folder: Path, first_step: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RunError(
                "monitor.tensorboard is true, and the package tensorboard is not installed; "
                "expected `pip install tensorboard`"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def log(self, record: Record, _rank_seconds: Sequence[float]) -> None:
        """Add the figures of a step."""
        step = int(record["step"])
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)

    def log_spectrum(self, step: int, spectrum: dict[str, dict[str, list[float]]]) -> None:
        """Add a histogram of each figure of each filter."""
        for name, table in spectrum.items():
            for figure, values in table.items():
                self._writer.add_histogram(f"{figure}/{name}", np.asarray(values), step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
