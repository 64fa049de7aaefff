"""How DeepSpeed writes the files of a checkpoint: an error is kept, not raised.

DeepSpeed meets in barriers while it saves. A rank that left by an exception would let all others
wait there, so every rank goes through to the end, and then they compare.
"""

from typing import Any

from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine


class KeepingCheckpointEngine(TorchCheckpointEngine):
    """DeepSpeed's own writer of files.

    Attributes:
        error: What could not be written, and why; empty if nothing went wrong.
    """

    def __init__(self, config: Any):
        super().__init__(config)
        self.error = ""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder."""
        try:
            super().makedirs(path, exist_ok=exist_ok)
        except OSError as error:
            self.error = self.error or f"{path}: {error.strerror}"

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        """Write one file, unless an earlier one failed."""
        if self.error:
            return
        try:
            super().save(state_dict, path)
        except (OSError, RuntimeError) as error:
            # torch.save says RuntimeError where the disk is full
            self.error = f"{path}: {str(error).splitlines()[0]}"
