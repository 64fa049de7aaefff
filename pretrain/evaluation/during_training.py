"""Text files and lm-eval's tasks every few steps, through the model that is in training.

Nothing of training moves: no random number, no position in the data, no parameter.
"""

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data_pipeline.stream.batch import Batch, to_step
from data_pipeline.stream.packing import empty_windows
from data_pipeline.tokenizer import Tokenizer, load_tokenizer
from pretrain.config import RunConfig
from pretrain.evaluation.text_loss import TextLoss, read_text
from pretrain.loss import valid_sums
from pretrain.monitoring.jsonl import Record
from pretrain.parallel.evaluator import evaluator
from pretrain.parallel.mesh import Mesh
from pretrain.parallel.sequence_parallel import own_span
from pretrain.resilience.stop_signals import StopPoll
from pretrain.runtime.ranks import Ranks, decided_by_rank_0, summed


class Text(NamedTuple):
    """A tokenized text.

    Attributes:
        name: Stem of its file, as part of a metric's name.
        ids: BOS and its tokens.
        num_bytes: UTF-8 bytes of the text.
    """

    name: str
    ids: list[int]
    num_bytes: int


class TrainingEvaluation:
    """The measurements of `[evaluate]`; their files are read, and tasks looked up, when it is made.

    Args:
        run: The run.
        mesh: This rank's place in the layout.
        ranks: This process among the ranks.
        poll: Notices signals to stop.

    Raises:
        RunError: A file cannot be read, or lm-eval is missing or knows no such task.
    """

    def __init__(self, run: RunConfig, mesh: Mesh, ranks: Ranks, poll: StopPoll):
        self.run, self.mesh, self.ranks, self.poll = run, mesh, ranks, poll
        self.tokenizer = load_tokenizer(run.data.tokenizer)
        self.texts = decided_by_rank_0(
            lambda: [_tokenized(file, self.tokenizer) for file in run.evaluate.texts]
        )
        self._tasks: Any = None
        if run.evaluate.tasks:
            # lm-eval is an extra
            from pretrain.evaluation.lm_eval_harness import open_tasks

            self._tasks = open_tasks(run.evaluate.tasks, "evaluate.tasks")

    def measure(self, engine: Any) -> Record:
        """Losses of the texts and metrics of the tasks; a collective.

        Raises:
            Stopped: A rank was asked to stop.
        """
        record: Record = {}
        with _undisturbed(engine.module):
            for text in self.texts:
                loss = self._text_loss(engine, text)
                record[f"eval_{text.name}_loss"] = loss.nats_per_token
                record[f"eval_{text.name}_bits_per_byte"] = loss.bits_per_byte
            if self._tasks is not None:
                record |= self._task_metrics(engine)
        return record

    def _text_loss(self, engine: Any, text: Text) -> TextLoss:
        """The loss of a text in windows of the run's length, each from an empty state."""
        batches = text_batches(
            text.ids,
            length=self.run.data.sequence_length,
            rows=self.run.train.micro_batch_size,
            data_rank=self.mesh.data.rank,
            data_ranks=self.mesh.data.size,
            pad_id=self.tokenizer.pad_id,
        )
        spans = (own_span(batch, self.mesh.sequence) for batch in self.poll.polled(batches))
        sums = valid_sums(evaluator(engine), spans, self.ranks.device)
        nll, count, _ = summed([value * self.mesh.counts for value in sums], self.ranks.device)
        return TextLoss(text.name, nll, int(count), text.num_bytes)

    def _task_metrics(self, engine: Any) -> Record:
        from pretrain.evaluation.lm_eval_harness import RanksModel, metrics_of, results_of
        from pretrain.huggingface.load import Pretrained

        engine.module.eval()
        loaded = Pretrained(engine.module, self.tokenizer, Path(), self.run)
        model = RanksModel(loaded, self.run.data.sequence_length, self.poll, self.ranks)
        results = results_of(model, self._tasks, self.run.evaluate.limit)
        return {
            f"eval_{_identifier(task)}_{_identifier(metric)}": value
            for task, metric, value in metrics_of(results)
        }


def text_batches(
    ids: Sequence[int], *, length: int, rows: int, data_rank: int, data_ranks: int, pad_id: int
) -> Iterator[Batch]:
    """Windows of a text, every token once over all ranks; each rank gets equally many batches.

    Args:
        ids: BOS and the tokens of the text.
        length: Tokens per window.
        rows: Windows per batch; those after the end of the text are padding without labels.
        data_rank: Data-parallel rank that reads.
        data_ranks: Number of data-parallel ranks.
        pad_id: Token of the padding.
    """
    tokens, labels = np.array(ids[:-1]), np.array(ids[1:])
    for start in range(0, len(tokens), rows * data_ranks * length):
        windows = empty_windows(rows, length, pad_id)
        for row in range(rows):
            begin = start + (data_rank * rows + row) * length
            part = tokens[begin : begin + length]
            windows.tokens[row, : len(part)] = part
            windows.labels[row, : len(part)] = labels[begin : begin + length]
        yield to_step(windows).batches(rows)[0]


def _tokenized(file: Path, tokenizer: Tokenizer) -> Text:
    text = read_text(file)
    ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    return Text(_identifier(file.stem), ids, len(text.encode()))


def _identifier(name: str) -> str:
    """A name of letters, digits and underscores, as every reporter takes it."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


@contextmanager
def _undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Context after which random states and the training mode are as before."""
    was_training = model.training
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            model.train(was_training)
