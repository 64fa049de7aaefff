"""Retention of complete checkpoints: old ones are removed, the others copied to the store.

What was written last is never removed. Checkpoints with a higher step are of a course of the run
that it has left by going back, and those with missing or cut files are damaged: neither counts, and
both are put aside under another name.

Rank 0 does this, and no other rank waits for it in a collective: an upload may take hours, or a
store be down for days, without harm to training.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from data_pipeline.errors import DataError
from pretrain.checkpoint.catalog import expired, list_checkpoints, step_of
from pretrain.checkpoint.manifest import discard, put_aside, require_sizes, verified
from pretrain.checkpoint.remote import is_stored, prune_remote, upload
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError, DamagedCheckpointError
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
        self._warnings: set[str] = set()

    def warn(self, problem: str) -> None:
        """Report a problem that harms nothing, once; an empty one is none."""
        if problem and problem not in self._warnings:
            self._warnings.add(problem)
            self._say(problem)

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
        """Remove expired checkpoints, copied or not, once this run has written one."""
        if self._newest is None:
            return
        with self._lock:
            sound = [path for path in self._of_this_course() if self._is_sound(path)]
            for old in expired(sound, self._run.checkpoint):
                if old != self._copying:
                    try:
                        self.warn(discard(old))
                    except OSError as error:
                        self.warn(f"{old}: an old checkpoint cannot be removed: {error}")

    def _of_this_course(self) -> list[Path]:
        """Checkpoints up to the newest that this run has written; higher steps are put aside."""
        checkpoints = list_checkpoints(self._run.train.output)
        if self._newest is None:
            return checkpoints
        last = step_of(self._newest)
        for abandoned in [path for path in checkpoints if step_of(path) > last]:
            self._put_aside(abandoned, "abandoned", f"the run went back, and is at step {last} now")
        return [path for path in checkpoints if step_of(path) <= last]

    def _is_sound(self, checkpoint: Path) -> bool:
        """Whether all files of a checkpoint have their sizes; if not, it is put aside."""
        if checkpoint == self._newest:
            return True
        try:
            require_sizes(checkpoint)
        except DamagedCheckpointError as error:
            self._put_aside(checkpoint, "damaged", str(error))
        except CheckpointError as error:
            self.warn(str(error))
        else:
            return True
        return False

    def _put_aside(self, checkpoint: Path, label: str, reason: str) -> None:
        """Rename a checkpoint that does not count; the caller holds the lock."""
        if checkpoint == self._copying:
            return
        try:
            aside = put_aside(checkpoint, label)
            self.warn(f"{checkpoint}: {reason}; it is kept as {aside.name} and does not count")
        except OSError as error:
            self.warn(f"{checkpoint}: {reason}; it does not count, and cannot be renamed: {error}")

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
        unreadable = []
        try:
            with self._lock:
                checkpoints = self._of_this_course()
            for checkpoint in reversed(checkpoints):
                try:
                    self._copy(checkpoint)
                except CheckpointError as error:
                    unreadable.append(str(error))
        except (DataError, OSError) as error:
            return str(error)
        if self._newest is not None:
            # a store that takes files, and does not let them be removed, is no failure
            for problem in prune_remote(
                self._run.checkpoint, self._run.data.storage, step_of(self._newest)
            ):
                self.warn(problem)
        return "; ".join(unreadable)

    def _copy(self, checkpoint: Path) -> None:
        with self._lock:
            if checkpoint in self._stored or not checkpoint.is_dir():
                return
            self._copying = checkpoint
        remote, storage = self._run.checkpoint.remote, self._run.data.storage
        damaged = ""
        try:
            if not is_stored(checkpoint, remote, storage):
                if checkpoint != self._newest:
                    # it was written earlier and may have been damaged since
                    verified(checkpoint)
                upload(checkpoint, remote, storage)
            self._stored.add(checkpoint)
        except DamagedCheckpointError as error:
            damaged = str(error)
        finally:
            self._copying = None
        if damaged:
            with self._lock:
                self._put_aside(checkpoint, "damaged", damaged)
