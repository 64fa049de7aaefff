"""Training of a classifier on packed rows of texts, and its accuracy.

Shape letters: S documents of a row, C classes, N texts.
"""

import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.tasks.data import Budget, Task, batches_of
from benchmarks.tasks.models import Spectral, Transformer, build_model
from data_pipeline.config import DataConfig, DatasetConfig
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.loader import build_train_loader
from pretrain.training.optimizer import parameter_groups


def train(kind: str, task: Task, budget: Budget, seed: int) -> dict[str, float]:
    """Train a model; its accuracy on the held-out texts, and seconds."""
    model, rate = build_model(kind, task, budget, seed), budget.rates[kind]
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=rate, betas=(0.9, 0.95))
    data = DataConfig(
        datasets=(DatasetConfig(path=str(task.folder / "train")),),
        sequence_length=budget.length,
        long_texts="cut",
        seed=seed,
        num_workers=0,
    )
    loader = build_train_loader(
        data,
        global_batch_size=budget.rows,
        micro_batch_size=budget.rows,
        data_rank=0,
        data_ranks=1,
    )
    begin = time.perf_counter()
    model.train()
    for step, (batch,) in enumerate(loader.read(budget.steps)):
        warm = min(1.0, (step + 1) / max(1, budget.steps // 20))
        share = 0.55 + 0.45 * math.cos(math.pi * step / budget.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * share
        logits_NC, label_N = labelled(model, batch)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits_NC, label_N).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - begin
    return {"accuracy": accuracy(model, task, budget), "seconds": seconds}


def labelled(model: Spectral | Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and labels of the texts of a batch."""
    logits_BSC = model.logits(batch.tokens, batch.segment_ids)
    row_N, time_N = (batch.labels >= 0).nonzero(as_tuple=True)
    document_N = batch.segment_ids[row_N, time_N]
    return logits_BSC[row_N, document_N], batch.labels[row_N, time_N]


@torch.no_grad()
def accuracy(model: Spectral | Transformer, task: Task, budget: Budget) -> float:
    """Share of the held-out texts whose label is predicted."""
    model.eval()
    right = count = 0
    for batch in batches_of(task, "valid", budget, budget.rows):
        logits_NC, label_N = labelled(model, batch)
        right += int((logits_NC.argmax(-1) == label_N).sum())
        count += len(label_N)
    return right / count
