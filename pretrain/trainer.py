"""The training loop: the only one. Variants are configuration.

Every rank runs it; decisions that change what happens next are taken from numbers that all ranks
share, so no rank ever waits for another that has gone elsewhere.
"""

import math
import time
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist

from data_pipeline.loader import Batch, build_train_loader, iterate_valid
from pretrain.checkpoint import load_engine, save_checkpoint
from pretrain.commands import PretrainCommand
from pretrain.config import RunConfig
from pretrain.distributed import Ranks, init_ranks, summed
from pretrain.engine import build_engine, step_engine, uses_bf16
from pretrain.errors import RunError
from pretrain.loss import batch_loss, count_labels, objective, valid_loss
from pretrain.metrics import Metrics
from pretrain.run_directory import check_run, check_tokenizer, find_start
from pretrain.run_file import dump_run
from spectral.lm import SpectralLM


def pretrain(command: PretrainCommand) -> None:
    """`resonance pretrain`: join the ranks, train, leave them.

    Raises:
        RunError: The run cannot be carried out as asked.
        DataError: Its data cannot be read.
    """
    run = command.run
    ranks = init_ranks()
    try:
        check_run(run, ranks.world_size)
        start = find_start(run, resume=command.resume, auto_resume=command.auto_resume)
        Trainer(run, ranks, start).train()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class Trainer:
    """One run on all ranks.

    State, all of it in checkpoints: the engine's, the position in the data, `step` and `tokens`.
    """

    def __init__(self, run: RunConfig, ranks: Ranks, checkpoint: Path | None = None):
        self.run, self.ranks = run, ranks
        self.step = self.tokens = 0
        self.loader = build_train_loader(
            run.data,
            global_batch_size=run.train.global_batch_size,
            micro_batch_size=run.train.micro_batch_size,
            data_rank=ranks.rank,
            data_ranks=ranks.world_size,
        )
        self.tokenizer = check_tokenizer(run, self.loader.tokenizer_fingerprint)
        torch.manual_seed(run.train.seed)
        model = SpectralLM(run.model)
        model.activation_checkpointing = run.train.activation_checkpointing
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.engine = build_engine(run, model.to(ranks.device), ranks)
        if checkpoint is not None:
            state = load_engine(self.engine, checkpoint, run)
            self.step, self.tokens = state["step"], state["tokens"]
            self.loader.load_state_dict(state["data"])
        self.metrics: Metrics | None = None
        if ranks.rank == 0:
            run.train.output.mkdir(parents=True, exist_ok=True)
            (run.train.output / "run.toml").write_text(dump_run(run), encoding="utf-8")
            self.metrics = Metrics(run, self.step, self.num_parameters)
            self._announce(checkpoint)

    def train(self) -> None:
        """Run all remaining steps.

        Raises:
            RunError: The loss is no longer a number.
        """
        run = self.run
        try:
            for batches in self._remaining_steps():
                begin = time.perf_counter()
                record = self.train_step(batches)
                record["tokens_per_s"] = record["step_tokens"] / (time.perf_counter() - begin)
                self._log(record)
                last = self.step == run.train.steps
                if run.data.valid and _is_due(self.step, run.train.validate_every, last):
                    self._log({"step": self.step, "tokens": self.tokens, **self.validate()})
                if _is_due(self.step, run.checkpoint.every, last):
                    self.save()
        finally:
            if self.metrics is not None:
                self.metrics.close()

    def train_step(self, batches: list[Batch]) -> dict[str, float]:
        """One optimizer step over this rank's micro-batches.

        The loss of every rank and micro-batch is divided by the tokens of the whole step, so the
        step is the same however its rows are spread.
        """
        batches = [batch.to(self.ranks.device) for batch in batches]
        num_labels, num_tokens = summed(
            [
                float(sum(count_labels(batch) for batch in batches)),
                float(sum(batch.tokens.numel() for batch in batches)),
            ],
            self.ranks.device,
        )
        nll = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        auxiliary = torch.zeros_like(nll)
        # DeepSpeed divides by accumulation steps and ranks; this undoes it
        scale = len(batches) * self.ranks.world_size / max(num_labels, 1.0)
        for batch in batches:
            loss = batch_loss(self.engine, batch)
            labels = count_labels(batch)
            nll += loss.nll.detach()
            auxiliary += loss.auxiliary.detach() * labels
            self.engine.backward(objective(loss, labels) * scale)
            learning_rate = self.engine.get_lr()[0]
            grad_norm = step_engine(self.engine)
        loss_sum, auxiliary_sum = summed([nll, auxiliary], self.ranks.device)
        self.step += 1
        self.tokens += int(num_tokens)
        mean = loss_sum / max(num_labels, 1.0)
        if not math.isfinite(mean):
            raise RunError(
                f"step {self.step}: the loss is {mean}; expected a finite number. Lower "
                "optim.learning_rate or raise optim.warmup_steps, and go on with --resume"
            )
        return {
            "step": self.step,
            "tokens": self.tokens,
            "step_tokens": int(num_tokens),
            "loss": mean,
            "auxiliary_loss": auxiliary_sum / max(num_labels, 1.0),
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
        }

    def validate(self) -> dict[str, float]:
        """Loss over the whole held-out split, in nats per token."""
        begin = time.perf_counter()
        run = self.run
        batches = iterate_valid(
            run.data.valid,
            sequence_length=run.data.sequence_length,
            micro_batch_size=run.train.micro_batch_size,
            data_rank=self.ranks.rank,
            data_ranks=self.ranks.world_size,
        )
        autocast = uses_bf16(run, self.ranks.device)
        loss_sum, num_labels = valid_loss(
            self.engine, batches, self.ranks, collective=True, bf16=autocast
        )
        return {
            "valid_loss": loss_sum / max(num_labels, 1.0),
            "valid_seconds": time.perf_counter() - begin,
        }

    def save(self) -> Path:
        """Write a checkpoint of the current step from all ranks."""
        state = {
            "step": self.step,
            "tokens": self.tokens,
            "data": self.loader.state_dict(),
            "layout": {
                "ranks": self.ranks.world_size,
                "zero_stage": self.run.parallel.zero_stage,
            },
        }
        return save_checkpoint(self.engine, self.run, self.tokenizer, state, self.ranks)

    def _remaining_steps(self) -> Iterable[list[Batch]]:
        if self.step >= self.run.train.steps:
            return
        for batches in self.loader:
            yield batches
            if self.step >= self.run.train.steps:
                return

    def _log(self, record: dict[str, float]) -> None:
        if self.metrics is not None:
            self.metrics.log(record)

    def _announce(self, checkpoint: Path | None) -> None:
        run = self.run
        origin = "from scratch" if checkpoint is None else f"resumed from {checkpoint}"
        assert self.metrics is not None
        self.metrics.say(
            f"{self.num_parameters:,} parameters, {self.ranks.world_size} ranks on "
            f"{self.ranks.device.type}, ZeRO {run.parallel.zero_stage}, "
            f"{run.train.global_batch_size} x {run.data.sequence_length} tokens per step, {origin}"
        )


def _is_due(step: int, every: int, last: bool) -> bool:
    return last or (every > 0 and step % every == 0)
