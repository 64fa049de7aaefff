"""Saving from all ranks: training waits for a copy to host memory; a thread writes the files.

    RUN/checkpoints/step-0000100/
        tensors/                files of every rank, and index.json with the place of each piece
        run.toml                the run
        tokenizer.model         the tokenizer (or a folder `tokenizer`)
        state.json              step, tokens, data position, schedule, versions
        certificate.json        the model's output on a probe
        manifest.json           size and SHA-256 of every file above; written last

A checkpoint is written under a name that starts with a dot and renamed when it is complete.
"""

import json
import os
import platform
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save

from data_pipeline.tokenizer import tokenizer_files
from pretrain.checkpoint.certificate import certify
from pretrain.checkpoint.manifest import Entry, discard, entry_of, publish, seal, sweep
from pretrain.checkpoint.ownership import owned_shards
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.tensor_writer import JsonIndexWriter, PieceSavePlanner, Shard
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError
from pretrain.parallel.matrices import state_names
from pretrain.run_file import dump_run
from pretrain.runtime.precision import precision_name
from pretrain.runtime.ranks import Ranks, agreed

TENSORS = "tensors"
# longer than any write can take (uploads do not use this group): after a timeout, a group is
# unusable; ranks that are gone close their connections, and the watchdog ends those that hang
TIMEOUT = timedelta(days=1)


class Saver:
    """Writes one checkpoint at a time.

    State: the writing thread and its outcome. All ranks call the same methods in the same order.

    Args:
        run: The run, with its directory.
        tokenizer: Path of the run's tokenizer; None for bytes.
        ranks: This process and the number of ranks.
        retention: Receives every complete checkpoint, on rank 0.
    """

    def __init__(self, run: RunConfig, tokenizer: Path | None, ranks: Ranks, retention: Retention):
        self.run, self.tokenizer, self.ranks = run, tokenizer, ranks
        self.root = run.train.output / "checkpoints"
        # a separate group, so that the thread's messages do not mix with those of training
        self._group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self._retention = retention
        self._thread: threading.Thread | None = None
        self._step, self._problem = 0, ""
        self._error: Exception | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the present checkpoint has failed, as far as this rank can tell."""
        if self._thread is None or self._thread.is_alive():
            return False
        return bool(self._problem) or self._error is not None

    def begin(self, engine: Any, state: dict[str, Any]) -> None:
        """Copy this rank's part to host memory, and start to write it.

        Args:
            engine: The DeepSpeed engine.
            state: JSON-able state with the key `step`; rank 0's is written, with `engine_facts`.
        """
        assert self._thread is None, "call wait() before the next begin()"
        shards = owned_shards(engine, state_names(self.run))
        texts = {
            "state.json": state | engine_facts(engine, self.run, self.ranks),
            "certificate.json": certify(engine, self.run),
        }
        self._step, self._problem = state["step"], ""
        # a daemon, so that a failing rank does not wait for ranks that are gone
        self._thread = threading.Thread(
            target=self._run, args=(shards, texts), name="checkpoint", daemon=True
        )
        self._thread.start()
        if not self.run.checkpoint.asynchronous:
            self._thread.join()

    def wait(self) -> int | None:
        """Wait for the checkpoint that is being written.

        Returns:
            Its step; None if no checkpoint is being written.

        Raises:
            CheckpointError: It could not be written, on all ranks together; earlier checkpoints
                are untouched.
            Exception: The thread failed on this rank, for example because another rank is gone; no
                later checkpoint can be written either.
        """
        if self._thread is None:
            return None
        self._thread.join()
        self._thread = None
        if self._error is not None:
            raise self._error
        if self._problem:
            raise agreed(CheckpointError(self._problem))
        return self._step

    def _run(self, shards: dict[str, Shard], texts: dict[str, dict[str, Any]]) -> None:
        """Write the checkpoint and keep the outcome for `wait`; the body of the thread."""
        try:
            self._problem = self._write(shards, texts)
        except Exception as error:  # noqa: BLE001
            self._error = error

    def _write(self, shards: dict[str, Shard], texts: dict[str, dict[str, Any]]) -> str:
        """Write this rank's tensors and, on rank 0, all other files.

        Returns:
            The problem; empty if there is none.
        """
        final = self.root / f"step-{self._step:07d}"
        partial = self.root / f".{final.name}.partial"
        problem = self._on_rank_0(lambda: self._make_room(partial))
        if not problem:
            problem = self._write_tensors(shards, partial / TENSORS)
        files: dict[str, Entry] = {}
        if not problem:
            problem = self._hash_files(partial, files)
        if not problem:
            problem = self._on_rank_0(lambda: self._complete(partial, final, files, texts))
        if problem:
            return self._explain(problem, partial)
        if self.ranks.rank == 0:
            self._retention.keep(final)
        return ""

    def _make_room(self, partial: Path) -> None:
        """Delete leftovers, which is no condition of saving, and create the folder; on rank 0."""
        for problem in sweep(self.root):
            self._retention.warn(problem)
        if os.path.lexists(partial):
            self._retention.warn(discard(partial))
        partial.mkdir(parents=True)

    def _write_tensors(self, shards: dict[str, Shard], folder: Path) -> str:
        try:
            save(
                shards,
                storage_writer=JsonIndexWriter(folder),
                planner=PieceSavePlanner(),
                process_group=self._group,
            )
        except CheckpointException as error:
            # torch raises it on all ranks together
            rank, (cause, _) = next(iter(error.failures.items()))
            text = str(cause).partition("\n")[0] or type(cause).__name__
            return f"rank {rank} could not write it: {text}"
        return ""

    def _hash_files(self, partial: Path, files: dict[str, Entry]) -> str:
        """Hash this rank's files and add all ranks' entries to `files`.

        Returns:
            The problem of any rank; empty if there is none.
        """
        local: dict[str, Entry] = {}
        problem = ""
        try:
            for file in partial.glob(f"{TENSORS}/__{self.ranks.rank}_*"):
                local[str(file.relative_to(partial))] = entry_of(file)
        except OSError as error:
            problem = f"rank {self.ranks.rank} could not read it back: {error}"
        answers: list[Any] = [None] * self.ranks.world_size
        dist.all_gather_object(answers, (local, problem), group=self._group)
        for entries, _ in answers:
            files.update(entries)
        return next((text for _, text in answers if text), "")

    def _complete(
        self,
        partial: Path,
        final: Path,
        hashed: dict[str, Entry],
        texts: dict[str, dict[str, Any]],
    ) -> None:
        """Write the small files and the manifest, and rename the folder; on rank 0."""
        for name, value in texts.items():
            (partial / name).write_text(json.dumps(value, indent=1), encoding="utf-8")
        (partial / "run.toml").write_text(dump_run(self.run), encoding="utf-8")
        if self.tokenizer is not None and self.tokenizer.is_dir():
            # a model's folder also holds its weights
            (partial / "tokenizer").mkdir()
            for file in tokenizer_files(self.tokenizer):
                shutil.copyfile(file, partial / "tokenizer" / file.name)
        elif self.tokenizer is not None:
            shutil.copyfile(self.tokenizer, partial / "tokenizer.model")
        seal(partial, hashed)
        self._retention.warn(publish(partial, final))

    def _on_rank_0(self, write: Callable[[], None]) -> str:
        """Call a function on rank 0.

        Returns:
            Its problem, on all ranks; empty if there is none.
        """
        outcome = [""]
        if self.ranks.rank == 0:
            try:
                write()
            except OSError as error:
                outcome[0] = f"rank 0 could not write it: {error}"
        dist.broadcast_object_list(outcome, group=self._group)
        return outcome[0]

    def _explain(self, problem: str, partial: Path) -> str:
        """Remove the partial checkpoint.

        Returns:
            The problem with the path and the free disk space.
        """
        if self.ranks.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        dist.barrier(group=self._group)
        free = shutil.disk_usage(self.run.train.output).free
        return (
            f"{partial}: {problem} ({free / 2**20:,.0f} MiB are free without it); "
            "earlier checkpoints are untouched"
        )


def engine_facts(engine: Any, run: RunConfig, ranks: Ranks) -> dict[str, Any]:
    """The entries of state.json besides the trainer's: schedule, seed, precision and so on."""
    return {
        "schedule": {"steps": engine.lr_scheduler.last_epoch},
        # every random number of a step is a function of the seed and the step
        "random": {"seed": run.train.seed},
        "precision": precision_name(run.train.precision),
        "layout": {"ranks": ranks.world_size, **run.parallel.model_dump(mode="json")},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "deepspeed", "resonance")},
        },
    }
