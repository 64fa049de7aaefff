"""Masked tokens of a held-out split: loss, and share that is predicted right."""

import json
import math
import sys
from typing import NamedTuple, cast

import torch

from data_pipeline.errors import WriteError
from data_pipeline.redaction import redact
from data_pipeline.storage.atomic import write_text_atomically
from pretrain.checkpoint.catalog import run_of
from pretrain.commands import EvaluateCommand
from pretrain.evaluation.split import open_split
from spectral.encoder import SpectralEncoder
from spectral.modules.linear import linear


class MaskedEvaluation(NamedTuple):
    """Figures of an encoder on a split; which tokens are masked does not change from run to run.

    Attributes:
        checkpoint: Checkpoint that was measured.
        data: Split that it was measured on.
        num_tokens: Number of predicted tokens.
        loss: Nats per predicted token.
        accuracy: Share of the predicted tokens whose most likely token is the right one.
    """

    checkpoint: str
    data: str
    num_tokens: int
    loss: float
    accuracy: float

    def __str__(self) -> str:
        return (
            f"{self.checkpoint} on {self.data}: {self.num_tokens:,} masked tokens: "
            f"{self.loss:.4f} nats/token, perplexity {math.exp(self.loss):.2f}, "
            f"{self.accuracy:.4f} predicted right"
        )


@torch.no_grad()
def evaluate_masked(command: EvaluateCommand) -> MaskedEvaluation:
    """Measure an encoder on the masked tokens of a split, and write evaluation.json into its run.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        DataError: The split is missing or damaged.
        RunError: No split is named, or another tokenizer made it.
    """
    split = open_split(command)
    model = cast(SpectralEncoder, split.model)
    nll, right, count = 0.0, 0, 0
    for batch in split.batches:
        on_device = batch.to(split.device)
        x_BTD = model.encode(on_device.tokens, on_device.segment_ids)
        # a row at a time: logits of a whole batch are large
        for x_TD, labels_T in zip(x_BTD, on_device.labels, strict=True):
            chosen = labels_T >= 0
            logits_NV = linear(x_TD[chosen], model.table()).double()
            nll += float(
                torch.nn.functional.cross_entropy(logits_NV, labels_T[chosen], reduction="sum")
            )
            right += int((logits_NV.argmax(-1) == labels_T[chosen]).sum())
            count += int(chosen.sum())
    result = MaskedEvaluation(
        str(split.checkpoint), redact(split.data), count, nll / max(count, 1), right / max(count, 1)
    )
    try:
        text = json.dumps(result._asdict(), indent=1)
        write_text_atomically(run_of(split.checkpoint) / "evaluation.json", text)
    except WriteError as error:
        print(f"{error} The result is not stored.", file=sys.stderr)
    return result
