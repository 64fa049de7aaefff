"""Records and messages of a run: all ranks call the same methods, rank 0 writes."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.redaction import redact
from data_pipeline.stream.batch import Batch
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.monitoring.audit_log import AuditLog, MicroBatch
from pretrain.monitoring.jsonl import JsonLines, Record
from pretrain.monitoring.metrics import Metrics, Spectrum
from pretrain.monitoring.stragglers import Stragglers
from pretrain.resilience.guard import Verdict
from pretrain.run_file import dump_run
from pretrain.runtime.ranks import Ranks, decided_by_rank_0, gathered_objects

# starts, saves, bad steps, rollbacks, stragglers and stops, in the order in which they happened
EVENTS = "events.jsonl"


class Journal:
    """The record files of a run directory, its messages, and the working time of each rank.

    State: rank 0's open files, and the ranks already named as stragglers.
    """

    def __init__(self, run: RunConfig, ranks: Ranks, first_step: int, num_parameters: int):
        self._run, self._ranks, self._directory = run, ranks, run.train.output
        self._num_parameters, self._first_step = num_parameters, first_step
        self._stragglers = Stragglers(run.health.straggler_ratio)
        self._metrics: Metrics | None = None
        self._audit: AuditLog | None = None
        self._events: JsonLines | None = None
        # bad steps since this process began
        self._num_events = 0

        def open_files() -> None:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._write_run()
                self._metrics = Metrics(run, first_step, num_parameters)
                self._audit = AuditLog(self._directory)
                self._events = JsonLines(self._directory / EVENTS)
            except OSError as error:
                raise RunError(f"train.output {self._directory}: {error}") from error

        decided_by_rank_0(open_files)

    def _write_run(self) -> None:
        file = self._directory / "run.toml"
        try:
            file.write_text(dump_run(self._run), encoding="utf-8")
        except OSError as error:
            # a copy for readers: every checkpoint has its own
            print(f"{file}: {error.strerror}; training continues without it", file=sys.stderr)

    def announce(self, checkpoint: Path | None) -> None:
        """Print the size of the run and where it starts."""
        run = self._run
        origin = "from scratch" if checkpoint is None else f"resumed from {checkpoint}"
        self.event("start" if checkpoint is None else "resume", self._first_step, origin)
        self.say(
            f"{self._num_parameters:,} parameters, {self._ranks.world_size} ranks on "
            f"{self._ranks.device.type}, ZeRO {run.parallel.zero_stage}, "
            f"{run.train.global_batch_size} x {run.data.sequence_length} tokens per step, {origin}"
        )

    def say(self, text: str) -> None:
        """Print a line on rank 0."""
        if self._metrics is not None:
            self._metrics.say(text)

    def log_step(
        self, record: Record, rank_seconds: Sequence[float], spectrum: Spectrum | None = None
    ) -> None:
        """Write the record of a step with its slowest rank, and report stragglers.

        Args:
            record: Figures by name.
            rank_seconds: Working time of each rank, without waits for other ranks.
            spectrum: Figures of the filters, if they were sampled.
        """
        straggler = ""
        if len(rank_seconds) > 1:
            straggler = self._stragglers.add(rank_seconds)
            slowest_s = max(rank_seconds)
            record |= {"slowest_rank": rank_seconds.index(slowest_s), "slowest_s": slowest_s}
        if self._metrics is not None:
            self._metrics.log(record | {"guard_events": self._num_events}, rank_seconds)
            if spectrum:
                self._metrics.log_spectrum(int(record["step"]), spectrum)
        if straggler:
            self.tell("straggler", int(record["step"]), straggler)

    def tell(self, kind: str, step: int, text: str) -> None:
        """Print a line, and record it as something that happened to the run."""
        self.say(text)
        self.event(kind, step, text)

    def event(self, kind: str, step: int, text: str = "") -> None:
        """Record something that happened to the run."""
        if self._events is not None:
            values = {"time": time.time(), "step": step, "event": kind, "text": redact(text)}
            self._events.append(values)

    def log(self, record: Record) -> None:
        """Write a record other than a step's."""
        if self._metrics is not None:
            self._metrics.log(record)

    def log_bad_step(
        self, step: int, verdict: Verdict, batches: Sequence[Batch], losses: Sequence[float]
    ) -> None:
        """Record a bad step with the documents of all ranks; a collective.

        Args:
            step: Number of the step.
            verdict: The guard's verdict on it.
            batches: This rank's micro-batches.
            losses: Their losses, summed over tokens.
        """
        local = [
            MicroBatch(self._ranks.rank, number, loss, batch.documents)
            for number, (batch, loss) in enumerate(zip(batches, losses, strict=True))
        ]
        gathered = [batch for part in gathered_objects(local) for batch in part]
        self._num_events += 1
        self.event(verdict.action, step, verdict.reason)
        if self._audit is not None:
            self._audit.write(step, verdict, gathered)
        self.say(
            f"step {step}: {verdict.reason}: {verdict.action}; its documents are in "
            f"{self._directory / 'audit.jsonl'}"
        )

    def rewind(self, step: int) -> None:
        """Delete the records after a step, because training repeats from there."""
        if self._metrics is not None:
            self._metrics.rewind(step)

    def has(self, key: str, step: int) -> bool:
        """Whether a record of a step has a key, on all ranks; a collective."""
        metrics = self._metrics
        return decided_by_rank_0(lambda: metrics is not None and metrics.has(key, step))

    def close(self) -> None:
        """Close the files and plot the losses."""
        if self._metrics is not None:
            self._metrics.close()
        for file in (self._audit, self._events):
            if file is not None:
                file.close()
