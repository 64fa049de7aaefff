"""The progress of a run: everything in its checkpoints besides the engine."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.stream.loader import TrainLoader
from pretrain.checkpoint.load import load_engine
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError
from pretrain.resilience.guard import Guard
from pretrain.runtime.precision import LossScale
from pretrain.training.noise_scale import NoiseScale
from pretrain.training.schedule import enter_schedule


class Progress:
    """Steps and tokens, the position in the data, and the state of guard and loss scale.

    Args:
        run: The run.
        engine: The DeepSpeed engine, which is loaded together with them.
        loader: Loader of the training data.
        guard: Judge of the steps' numbers.
        loss_scale: Scale of the losses.
        noise: Measures the gradient noise scale.

    Attributes:
        step: Optimizer steps that were applied.
        tokens: Tokens of those steps.
        saved_step: Step of the newest complete checkpoint.
    """

    def __init__(
        self,
        run: RunConfig,
        engine: Any,
        loader: TrainLoader,
        guard: Guard,
        loss_scale: LossScale,
        noise: NoiseScale,
    ):
        self._run, self._engine, self._loader = run, engine, loader
        self._guard, self._loss_scale, self._noise = guard, loss_scale, noise
        self.step = self.tokens = self.saved_step = 0
        # position before a step that is read but not yet done
        self._position = loader.state_dict()

    def resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint; a collective.

        Raises:
            CheckpointError: As `load_engine`.
        """
        state = self._load(checkpoint)
        with _state_errors(checkpoint):
            self._loader.load_state_dict(state["data"])
            self._guard.load_state_dict(state["guard"])
        self.pass_data()

    def rewind(self, checkpoint: Path) -> None:
        """Go back to a checkpoint, but skip all data that was read since; a collective.

        Raises:
            CheckpointError: As `load_engine`.
        """
        state = self._load(checkpoint)
        with _state_errors(checkpoint):
            self._guard.rewind(state["guard"])

    def pass_data(self) -> None:
        """Mark all data read so far as consumed, even if its gradient was discarded."""
        self._position = self._loader.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint, as JSON-able values."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "data": self._position,
            "guard": self._guard.state_dict(),
            "loss_scale": self._loss_scale.state_dict(),
            "noise": self._noise.state_dict(),
        }

    def _load(self, checkpoint: Path) -> dict[str, Any]:
        state = load_engine(self._engine, checkpoint, self._run)
        with _state_errors(checkpoint):
            enter_schedule(self._engine, self._run, int(state["schedule"]["steps"]))
            self.step, self.tokens = int(state["step"]), int(state["tokens"])
            self._loss_scale.load_state_dict(state.get("loss_scale", {}))
            self._noise.load_state_dict(state.get("noise", {}))
        self.saved_step = self.step
        return state


@contextlib.contextmanager
def _state_errors(checkpoint: Path) -> Iterator[None]:
    """Turn what a changed state.json leads to into a `CheckpointError`."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise CheckpointError(
            f"{checkpoint / 'state.json'}: not the state of a run ({error!r})"
        ) from error
