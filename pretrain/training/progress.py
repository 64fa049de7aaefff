"""How far a run has come: what its checkpoints hold besides the engine."""

from pathlib import Path
from typing import Any

from data_pipeline.stream.loader import TrainLoader
from pretrain.checkpoint.load import load_engine
from pretrain.config import RunConfig
from pretrain.resilience.guard import Guard
from pretrain.runtime.precision import LossScale
from pretrain.training.schedule import load_schedule


class Progress:
    """Steps and tokens, the position in the data, and what guard and loss scale remember.

    Args:
        run: The run.
        engine: The DeepSpeed engine, which is loaded with them.
        loader: Reads the training data.
        guard: Judges steps.
        loss_scale: Scales losses.

    Attributes:
        step: Optimizer steps that were applied.
        tokens: What they were computed from.
        saved_step: That of the last checkpoint that is complete.
    """

    def __init__(
        self, run: RunConfig, engine: Any, loader: TrainLoader, guard: Guard, loss_scale: LossScale
    ):
        self._run, self._engine, self._loader = run, engine, loader
        self._guard, self._loss_scale = guard, loss_scale
        self.step = self.tokens = self.saved_step = 0
        # before a step that was read but not yet done
        self._position = loader.state_dict()

    def resume(self, checkpoint: Path) -> None:
        """Go on where a checkpoint was written; a collective.

        Raises:
            CheckpointError: As `load_engine`.
        """
        state = self._load(checkpoint)
        self._loader.load_state_dict(state["data"])
        self._guard.load_state_dict(state["guard"])
        self.pass_data()

    def rewind(self, checkpoint: Path) -> None:
        """Go back to a checkpoint, but pass over all data that was read since; a collective.

        Raises:
            CheckpointError: As `load_engine`.
        """
        self._guard.rewind(self._load(checkpoint)["guard"])

    def pass_data(self) -> None:
        """What was read so far is done with, whether or not it was applied."""
        self._position = self._loader.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint is to hold, JSON-able."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "data": self._position,
            "guard": self._guard.state_dict(),
            "loss_scale": self._loss_scale.state_dict(),
        }

    def _load(self, checkpoint: Path) -> dict[str, Any]:
        state = load_engine(self._engine, checkpoint, self._run)
        load_schedule(self._engine, int(state["schedule"]["steps"]))
        self.step, self.tokens = state["step"], state["tokens"]
        self.saved_step = self.step
        self._loss_scale.load_state_dict(state.get("loss_scale", {}))
        return state
