"""What becomes of complete checkpoints: old ones go, those that stay are copied to the store.

Rank 0 does it, and no other rank waits for it in a collective: an upload may take hours, and a
store may be down for days, without harm to training.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from data_pipeline.errors import DataError
from pretrain.checkpoint.catalog import expired, list_checkpoints
from pretrain.checkpoint.manifest import discard, verified
from pretrain.checkpoint.remote import is_stored, prune_remote, upload
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.runtime.ranks import agreed, decided_by_rank_0

# between two looks of all ranks at rank 0's copying
POLL_S = 1.0
_UNFINISHED = "the copying thread ended by an error of its own; its traceback is above"


class Retention:
    """Keeps a run's checkpoints, here and in its store.

    Every round of copying looks for all that the store does not have: what could not be copied is
    tried again in the next one.

    Args:
        run: Its directory, its store and what to keep.
        say: Is told what could not be removed or copied; called from other threads.
    """

    def __init__(self, run: RunConfig, say: Callable[[str], None]):
        self._run, self._say = run, say
        # what is being copied is not removed
        self._lock = threading.Lock()
        self._copying: Path | None = None
        self._newest: Path | None = None
        self._stored: set[Path] = set()
        self._idle = threading.Event()
        self._idle.set()
        self._again = False
        self._problem = ""

    def keep(self, written: Path) -> None:
        """A checkpoint is complete: remove those that expire with it, and begin to copy it."""
        self._newest = written
        self._stored.discard(written)
        self._remove_expired()
        self._copy_missing()

    def finish(self, heartbeat: Heartbeat) -> bool:
        """Try once more to copy what the store does not have, and wait for it; a collective.

        All ranks ask rank 0 by turns, so that no collective takes as long as an upload.

        Returns:
            Whether the store now has everything, as far as there is one.
        """
        if not self._run.checkpoint.remote:
            return True

        def is_copying() -> bool:
            return not self._idle.wait(POLL_S)

        decided_by_rank_0(self._copy_missing)
        while decided_by_rank_0(is_copying):
            heartbeat.beat("waiting for an upload")
        decided_by_rank_0(self._remove_expired)
        return decided_by_rank_0(lambda: not self._problem)

    def finish_run(self, heartbeat: Heartbeat) -> None:
        """As `finish`, after the last step.

        Raises:
            CheckpointError: The store lacks some and `checkpoint.on_error` is to stop; on all ranks
                together.
        """
        if self.finish(heartbeat):
            return
        config = self._run.checkpoint
        text = (
            f"all steps are done and saved, but checkpoint.remote {config.remote} lacks what is "
            "named above; --resume uploads it"
        )
        if config.on_error == "stop":
            raise agreed(CheckpointError(text))
        self._say(text)

    def _remove_expired(self) -> None:
        """Remove those that are not to be kept, copied or not; the newest is always kept."""
        try:
            with self._lock:
                for old in expired(list_checkpoints(self._run.train.output), self._run.checkpoint):
                    if old != self._copying:
                        discard(old)
        except OSError as error:
            self._say(f"an old checkpoint cannot be removed: {error}")

    def _copy_missing(self) -> None:
        """Begin a round of copying, or let another follow the one that goes on."""
        if not self._run.checkpoint.remote:
            return
        with self._lock:
            self._again = True
            if self._idle.is_set():
                self._idle.clear()
                # a daemon: a rank that fails does not wait for a store
                threading.Thread(target=self._copy_rounds, name="upload", daemon=True).start()

    def _copy_rounds(self) -> None:
        """The thread."""
        try:
            while self._takes_another():
                self._problem = _UNFINISHED
                self._problem = self._copy_round()
                if self._problem:
                    self._say(
                        f"checkpoint.remote {self._run.checkpoint.remote} does not hold every "
                        f"checkpoint yet: {self._problem}. They are complete in "
                        f"{self._run.train.output}; the next one brings another attempt"
                    )
        except BaseException:
            # nobody is to wait for a thread that is gone
            self._idle.set()
            raise

    def _takes_another(self) -> bool:
        with self._lock:
            again, self._again = self._again, False
            if not again:
                self._idle.set()
            return again

    def _copy_round(self) -> str:
        """Copy what the store does not have, the newest first; returns what went wrong."""
        damaged = []
        try:
            for checkpoint in reversed(list_checkpoints(self._run.train.output)):
                try:
                    self._copy(checkpoint)
                except CheckpointError as error:
                    damaged.append(str(error))
            prune_remote(self._run.checkpoint, self._run.data.storage)
        except (DataError, OSError) as error:
            return str(error)
        return "; ".join(damaged)

    def _copy(self, checkpoint: Path) -> None:
        with self._lock:
            if checkpoint in self._stored or not checkpoint.is_dir():
                return
            self._copying = checkpoint
        remote, storage = self._run.checkpoint.remote, self._run.data.storage
        try:
            if not is_stored(checkpoint, remote, storage):
                if checkpoint != self._newest:
                    # it has lain here for a while
                    verified(checkpoint)
                upload(checkpoint, remote, storage)
            self._stored.add(checkpoint)
        finally:
            self._copying = None
