"""Retention of complete checkpoints: old ones are removed, the others copied to the store.

Rank 0 does this, and no other rank waits for it in a collective: an upload may take hours, or a
store be down for days, without harm to training.
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

# interval at which all ranks check whether rank 0 is still copying
POLL_S = 1.0
_UNFINISHED = "the copying thread failed; its traceback is above"


class Retention:
    """Local and remote retention of a run's checkpoints.

    Every round of copying covers all checkpoints that the store lacks, so a failed copy is retried
    in the next round.

    Args:
        run: The run, with its directory, its store and the checkpoints to keep.
        say: Receives messages about failed removals and copies; called from other threads.
    """

    def __init__(self, run: RunConfig, say: Callable[[str], None]):
        self._run, self._say = run, say
        # guards _copying, so that a checkpoint is not removed while it is copied
        self._lock = threading.Lock()
        self._copying: Path | None = None
        self._newest: Path | None = None
        self._stored: set[Path] = set()
        self._idle = threading.Event()
        self._idle.set()
        self._requested = False
        self._problem = ""

    def keep(self, written: Path) -> None:
        """Register a complete checkpoint: remove those that expire with it, and start copying."""
        self._newest = written
        self._stored.discard(written)
        self._remove_expired()
        self._copy_missing()

    def finish(self, heartbeat: Heartbeat) -> bool:
        """Copy once more what the store lacks, and wait for the end of it; a collective.

        All ranks poll rank 0, so that no single collective lasts as long as an upload.

        Returns:
            Whether the store now has every checkpoint; True if the run has no store.
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
        """Copy what the store lacks as `finish` does, after the last step of a run.

        Raises:
            CheckpointError: The store lacks checkpoints and `checkpoint.on_error` is "stop"; on all
                ranks together.
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
        """Remove expired checkpoints, copied or not; the newest is always kept."""
        try:
            with self._lock:
                for old in expired(list_checkpoints(self._run.train.output), self._run.checkpoint):
                    if old != self._copying:
                        discard(old)
        except OSError as error:
            self._say(f"an old checkpoint cannot be removed: {error}")

    def _copy_missing(self) -> None:
        """Start a round of copying, or request another one after the present one."""
        if not self._run.checkpoint.remote:
            return
        with self._lock:
            self._requested = True
            if self._idle.is_set():
                self._idle.clear()
                # a daemon, so that a failing rank does not wait for the store
                threading.Thread(target=self._copy_rounds, name="upload", daemon=True).start()

    def _copy_rounds(self) -> None:
        """Run rounds of copying until none is requested; the body of the thread."""
        try:
            while self._start_requested_round():
                self._problem = _UNFINISHED
                self._problem = self._copy_round()
                if self._problem:
                    self._say(
                        f"checkpoint.remote {self._run.checkpoint.remote} does not hold every "
                        f"checkpoint yet: {self._problem}. They are complete in "
                        f"{self._run.train.output}; the next one brings another attempt"
                    )
        except BaseException:
            # this thread ends, and nothing may wait for it
            self._idle.set()
            raise

    def _start_requested_round(self) -> bool:
        """Whether a round was requested; if not, the thread counts as idle."""
        with self._lock:
            requested, self._requested = self._requested, False
            if not requested:
                self._idle.set()
            return requested

    def _copy_round(self) -> str:
        """Copy what the store lacks, the newest first.

        Returns:
            The problem; empty if there is none.
        """
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
                    # it was written earlier and may have been damaged since
                    verified(checkpoint)
                upload(checkpoint, remote, storage)
            self._stored.add(checkpoint)
        finally:
            self._copying = None
