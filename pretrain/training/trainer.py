"""The training loop: the only one. Variants are configuration.

Every rank runs it; decisions that change what happens next are taken from numbers that all ranks
share, so no rank ever waits for another that took a different turn. There are two: does any rank
want to stop (`StopPoll`, at the beginning of every step and of every batch of a validation), and
may this gradient be applied (`Guard`, between gradient and optimizer).
"""

import time
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.stream.batch import Batch
from data_pipeline.stream.order import hash_integers
from launch.torchrun import REQUEUE_STATUS
from pretrain.checkpoint.catalog import go_back
from pretrain.checkpoint.resume import with_decay_start
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.save import Saver
from pretrain.checkpoint.transfer import Transfer
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError
from pretrain.idle_keys import idle_keys_of
from pretrain.loss import count_labels
from pretrain.monitoring.journal import Journal
from pretrain.monitoring.jsonl import Record
from pretrain.objectives.classify import with_labels
from pretrain.parallel.layout_checks import check_layout
from pretrain.parallel.mesh import build_mesh
from pretrain.parallel.sequence_parallel import own_span
from pretrain.parallel.split_model import empty_model
from pretrain.resilience.guard import Guard, Verdict, bad_step_error
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.resilience.node_health import check_health
from pretrain.resilience.stop_signals import StopFlag, Stopped, StopPoll
from pretrain.run_checks import check_tokenizer
from pretrain.run_file import with_chunk
from pretrain.runtime.malloc import reuse_freed_memory
from pretrain.runtime.precision import LossScale
from pretrain.runtime.ranks import Ranks, decided_by_rank_0
from pretrain.training.engine import build_engine, finish_step, set_accumulation
from pretrain.training.gradient import StepContext, compute_gradient
from pretrain.training.group_clipping import clip_groups
from pretrain.training.loader import run_loader
from pretrain.training.measurements import Measurements, is_due
from pretrain.training.noise_scale import NoiseScale
from pretrain.training.progress import Progress
from pretrain.training.resumption import changed_keys
from pretrain.training.sampling.sampler import Sampler
from pretrain.training.schedule import learning_rate_at


class Trainer:
    """A run on all ranks.

    Its state is the engine's and its `Progress`, both saved in checkpoints.

    Args:
        run: The run.
        ranks: This process among the ranks.
        checkpoint: Checkpoint to resume from; None starts from scratch.
        stop: Flag that a signal sets; None for a new one.
        heartbeat: Heartbeat of this rank; None for a new one.
    """

    def __init__(
        self,
        run: RunConfig,
        ranks: Ranks,
        checkpoint: Path | None = None,
        *,
        stop: StopFlag | None = None,
        heartbeat: Heartbeat | None = None,
    ):
        run = with_decay_start(with_chunk(run, checkpoint), checkpoint)
        self.ranks = ranks
        self.heartbeat = heartbeat or Heartbeat(run.train.output, ranks.rank)
        self.poll = StopPoll(stop or StopFlag(), ranks, self.heartbeat)
        self.guard = Guard(run.guard)
        check_layout(run, ranks.world_size)
        self.mesh = build_mesh(run.parallel, ranks)
        self.loader = run_loader(run, self.mesh)
        self.run = run = with_labels(run, self.loader.labels)
        self.tokenizer = check_tokenizer(run, self.loader.tokenizer_fingerprint)
        num_parameters = sum(p.numel() for p in empty_model(run.model).parameters())
        self.heartbeat.beat("building the engine")
        transfer = Transfer(run) if checkpoint is None and run.train.branch_from else None
        self.engine = build_engine(run, ranks, self.mesh, transfer)
        self.loss_scale = LossScale(run.train, self.engine.module.parameters())
        # its hooks see gradients that the loss scale's have divided
        self.noise = NoiseScale(run.monitor.noise_every, self.engine.module.parameters())
        self.context = StepContext(
            self.engine, ranks, self.mesh, self.heartbeat, self.loss_scale, self.noise
        )
        self.progress = Progress(
            run, self.engine, self.loader, self.guard, self.loss_scale, self.noise
        )
        self.heartbeat.beat("loading a checkpoint")
        if checkpoint is not None:
            self.progress.resume(checkpoint)
        if ranks.device.type == "cpu":
            # not earlier: a rank returns what its start needed beyond its share
            reuse_freed_memory()
        remaining = run.train.steps - self.progress.step
        decided_by_rank_0(lambda: self.loader.check_weights(remaining))
        self.heartbeat.beat("opening files")
        self.journal = Journal(run, ranks, self.progress.step, num_parameters)
        self.retention = Retention(run, self.journal.say)
        self.saver = Saver(run, self.tokenizer, ranks, self.retention)
        self.sampler = Sampler(run, self.engine, ranks, self.mesh, self.heartbeat)
        self.measurements = Measurements(
            run, self.mesh, self.engine, ranks, self.poll, self.progress, self.journal
        )
        self.journal.announce(checkpoint)
        if checkpoint is not None:
            for line in changed_keys(run, checkpoint, self.progress.step):
                self.journal.say(line)
        for line in (*([str(transfer)] if transfer else []), *idle_keys_of(run)):
            self.journal.say(line)
        for finding in check_health(run.health, run.train.output, ranks):
            self.journal.say(f"health: {finding}")

    def train(self) -> None:
        """Run all remaining steps.

        Raises:
            RunError: A step's numbers are bad and the run is to stop, or a checkpoint that is
                needed cannot be written.
            SystemExit: With REQUEUE_STATUS, when asked to stop.
        """
        try:
            if self.progress.step:
                self.measurements.run_due(only_missing=True)
            steps = self._steps()
            while self.progress.step < self.run.train.steps:
                if self.train_step(self.poll.next_step(steps)) is None:
                    continue
                self.measurements.run_due()
                if self._is_due(self.run.checkpoint.every):
                    self.save(needed=self.progress.step == self.run.train.steps)
            self.retention.finish_run(self.heartbeat)
        except Stopped:
            self.finish_save()
            if self.progress.step != self.progress.saved_step:
                self.save(needed=True)
            step = self.progress.step
            saved = f"step {step} is saved; --resume continues" if step else "no step is done yet"
            self.journal.tell("stop", step, f"asked to stop: {saved}")
            self.retention.finish(self.heartbeat)
            raise SystemExit(REQUEUE_STATUS) from None
        finally:
            self.journal.close()

    def _steps(self) -> Iterator[list[Batch]]:
        """The data of all remaining steps; no reader prepares more than that."""
        # again if steps were skipped, which adds as many
        while (remaining := self.run.train.steps - self.progress.step) > 0:
            yield from self.loader.read(remaining)

    def train_step(self, batches: list[Batch] | None) -> Record | None:
        """Run one optimizer step over this rank's micro-batches.

        Args:
            batches: Micro-batches that this rank has read; None if it was asked to stop instead.

        Returns:
            The step's record; None if its numbers are bad and its data is skipped.

        Raises:
            RunError: The step's numbers are bad, and the run is to stop.
            Stopped: A rank was asked to stop.
        """
        begin = time.perf_counter()
        batches = [own_span(batch, self.mesh.sequence) for batch in batches or []]
        num_labels, num_tokens, num_failed = self.poll.exchange(
            float(sum(count_labels(batch) for batch in batches) * self.mesh.counts),
            float(sum(batch.tokens.numel() for batch in batches) * self.mesh.counts),
            float(self.saver.has_failed),
        )
        if num_failed:
            self.finish_save()
        step = self.progress.step + 1
        learning_rate = learning_rate_at(self.progress.step, self.run)
        self.sampler.begin(step, self.poll.waited_s)
        set_accumulation(self.engine, len(batches))
        gradient = compute_gradient(
            self.context,
            batches,
            num_labels,
            seed=hash_integers(self.run.train.seed, self.progress.step),
            step=step,
            data_s=self.poll.waited_s,
        )
        verdict = self.guard.judge(step, gradient.loss, gradient.norm)
        if verdict.reason:
            # once for each row: tensor ranks and stages read the same
            counted = batches if self.mesh.counts else []
            losses = gradient.losses if self.mesh.counts else []
            self.journal.log_bad_step(step, verdict, counted, losses)
        self.sampler.end_passes()
        self.heartbeat.beat("optimizer")
        if self.run.optim.clip == "groups" and verdict.applies:
            clip_groups(self.engine, self.run.optim.clip_norm)
        finish_step(self.engine, apply=verdict.applies)
        spectrum, sampled = self.sampler.end_step()
        self.progress.pass_data()
        if not verdict.applies:
            self._pass_over(verdict)
            return None
        self.progress.step = step
        self.progress.tokens += int(num_tokens)
        record = {
            "step": step,
            "tokens": self.progress.tokens,
            "step_tokens": int(num_tokens),
            "loss": gradient.loss,
            "auxiliary_loss": gradient.auxiliary,
            "grad_norm": gradient.norm,
            "learning_rate": learning_rate,
        }
        record |= self.sampler.speed(num_tokens, begin - self.poll.waited_s) | sampled
        record |= self.noise.record(
            gradient.norm, num_labels, self.mesh.zero.size, self.ranks.device
        )
        self.journal.log_step(record, gradient.rank_seconds, spectrum)
        return record

    def save(self, *, needed: bool) -> None:
        """Begin a checkpoint of the current step on all ranks, once the one before is written.

        Args:
            needed: Whether the run would lose work without it; then it is waited for.

        Raises:
            CheckpointError: A checkpoint cannot be written, and is needed or the run is to stop.
        """
        self.finish_save()
        self.heartbeat.beat("checkpoint")
        self.saver.begin(self.engine, self.progress.state_dict())
        if needed:
            self.finish_save(needed=True)

    def finish_save(self, *, needed: bool = False) -> None:
        """Wait for the checkpoint being written, if any; see `save`."""
        self.heartbeat.beat("waiting for a checkpoint")
        try:
            if saved := self.saver.wait():
                self.progress.saved_step = saved
                self.journal.event("save", saved)
        except CheckpointError as error:
            if needed or self.run.checkpoint.on_error == "stop":
                raise
            self.journal.say(f"{error}; training goes on")

    def _pass_over(self, verdict: Verdict) -> None:
        """Skip a bad step's data; its gradient is discarded already."""
        if verdict.action == "stop":
            self.finish_save()
            raise bad_step_error(self.progress.step + 1, verdict)
        if verdict.action != "rollback":
            return
        self.finish_save()
        checkpoint = decided_by_rank_0(lambda: go_back(self.run.train.output))
        if checkpoint is None:
            self.journal.say("there is no checkpoint yet to go back to: only the step is skipped")
            return
        self.progress.rewind(checkpoint)
        self.journal.rewind(self.progress.step)
        self.journal.tell("rollback", self.progress.step, f"back to {checkpoint.name}")

    def _is_due(self, every: int) -> bool:
        return is_due(every, self.progress.step, self.run.train.steps)
