"""Accuracy, macro F1 and calibration of a classifier on texts with labels, and its confusions.

Shape letters: N texts, C classes.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data_pipeline.errors import WriteError
from data_pipeline.redaction import redact
from data_pipeline.storage.atomic import write_atomically, write_text_atomically
from pretrain.checkpoint.catalog import run_of
from pretrain.commands import EvaluateCommand
from pretrain.evaluation.split import Split, open_split
from pretrain.objectives.classify import check_labels
from spectral.classifier import MORE_LABELS, SpectralClassifier

Floats = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]
CALIBRATION_BINS = 15
# larger tables have no room for names
MOST_NAMES = 60


class LabelEvaluation(NamedTuple):
    """Figures of a classifier on a split.

    Attributes:
        checkpoint: Checkpoint that was measured.
        data: Split that it was measured on.
        num_texts: Number of texts.
        accuracy: Share of the texts whose label, or all of whose labels, are predicted.
        macro_f1: Mean over the labels of F1; a label that neither occurs nor is predicted is left
            out.
        calibration_error: Mean difference between the probability and the share of right decisions,
            over bins of equal width (expected calibration error).
        most_frequent: Share of the most frequent label: the accuracy of always predicting it.
        f1: F1 of each label.
        confusion: Picture of the confusions; empty for texts with several labels.
    """

    checkpoint: str
    data: str
    num_texts: int
    accuracy: float
    macro_f1: float
    calibration_error: float
    most_frequent: float
    f1: dict[str, float]
    confusion: str

    def __str__(self) -> str:
        worst = sorted(self.f1.items(), key=lambda item: item[1])[:5]
        lines = [
            f"{self.checkpoint} on {self.data}: {self.num_texts:,} texts, {len(self.f1)} labels",
            f"accuracy {self.accuracy:.4f} (the most frequent label alone: "
            f"{self.most_frequent:.4f}), macro F1 {self.macro_f1:.4f}, calibration error "
            f"{self.calibration_error:.4f}",
            "lowest F1: " + ", ".join(f"{name} {value:.3f}" for name, value in worst),
        ]
        if self.confusion:
            lines.append(f"confusions: {self.confusion}")
        return "\n".join(lines)


def evaluate_labels(command: EvaluateCommand) -> LabelEvaluation:
    """Measure a classifier on a split, and write evaluation.json and confusion.png into its run.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        DataError: The split is missing or damaged.
        RunError: No split is named, another tokenizer made it, or it has other labels.
    """
    split = open_split(command)
    check_labels(split.run, split.data, split.manifest)
    probabilities, targets = (np.concatenate(part) for part in zip(*_texts(split), strict=True))
    names = split.run.objective.labels or split.manifest.labels
    if split.manifest.multi_label:
        decided = probabilities > 0.5
        confidence, right = np.maximum(probabilities, 1.0 - probabilities), decided == targets
    else:
        best_N = probabilities.argmax(-1)
        decided = np.eye(len(names), dtype=bool)[best_N]
        confidence, right = probabilities.max(-1), targets[np.arange(len(targets)), best_N]
    f1 = f1_scores(decided, targets)
    folder = run_of(split.checkpoint)
    picture = "" if split.manifest.multi_label else str(folder / "confusion.png")
    result = LabelEvaluation(
        str(split.checkpoint),
        redact(split.data),
        len(targets),
        accuracy=float((decided == targets).all(-1).mean()),
        macro_f1=float(np.nanmean(f1)),
        calibration_error=calibration_error(confidence.flatten(), right.flatten()),
        most_frequent=float(targets.mean(0).max()),
        f1={name: float(value) for name, value in zip(names, f1, strict=True) if value == value},
        confusion=picture,
    )
    try:
        write_text_atomically(folder / "evaluation.json", json.dumps(result._asdict(), indent=1))
        if picture:
            draw_confusions(decided, targets, names, Path(picture))
    except WriteError as error:
        # the result is printed all the same: it may have taken hours
        print(f"{error} The result is not stored.", file=sys.stderr)
    return result


@torch.no_grad()
def _texts(split: Split) -> Iterator[tuple[Floats, Truths]]:
    """Probabilities [N, C] and labels [N, C] of the texts of each batch."""
    model = cast(SpectralClassifier, split.model)
    for batch in split.batches:
        on_device = batch.to(split.device)
        segments_BT, labels_BT = on_device.segment_ids, on_device.labels
        logits_BSC = model.classify(model.encode(on_device.tokens, segments_BT), segments_BT)
        row_N, time_N = (labels_BT >= 0).nonzero(as_tuple=True)
        logits_NC = logits_BSC[row_N, segments_BT[row_N, time_N]].double()
        if model.config.multi_label:
            targets_BSC = torch.zeros_like(logits_BSC, dtype=torch.bool)
            row_M, time_M = (labels_BT <= MORE_LABELS).nonzero(as_tuple=True)
            label_M = MORE_LABELS - labels_BT[row_M, time_M]
            targets_BSC[row_M, segments_BT[row_M, time_M], label_M] = True
            target_NC = targets_BSC[row_N, segments_BT[row_N, time_N]]
            yield _numpy(logits_NC.sigmoid()), _numpy(target_NC)
        else:
            label_N = labels_BT[row_N, time_N]
            target_NC = torch.nn.functional.one_hot(label_N, logits_NC.shape[-1]).bool()
            yield _numpy(logits_NC.softmax(-1)), _numpy(target_NC)


def _numpy(tensor: Tensor) -> Any:
    return tensor.cpu().numpy()


def f1_scores(decided_NC: Truths, target_NC: Truths) -> Floats:
    """F1 of each label; NaN for one that neither occurs nor is predicted."""
    hits = (decided_NC & target_NC).sum(0)
    with np.errstate(invalid="ignore"):
        return 2.0 * hits / (decided_NC.sum(0) + target_NC.sum(0))


def calibration_error(confidence_N: Floats, right_N: Truths) -> float:
    """Mean over the decisions of |mean probability - share of right ones| in their bin."""
    bin_N = np.minimum((confidence_N * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    difference = np.bincount(bin_N, confidence_N - right_N, CALIBRATION_BINS)
    return float(np.abs(difference).sum() / len(confidence_N))


def draw_confusions(
    decided_NC: Truths, target_NC: Truths, names: tuple[str, ...], path: Path
) -> None:
    """Draw how often each label is predicted for the texts of each label, as shares.

    Raises:
        WriteError: It cannot be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    counts = target_NC.T.astype(float) @ decided_NC
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1.0)
    size = min(max(4.0, 0.22 * len(names)), 16.0)
    figure, axes = plt.subplots(figsize=(size + 2.0, size))
    image = axes.imshow(shares, cmap="viridis", vmin=0.0, vmax=1.0)
    figure.colorbar(image, label="share of the label's texts")
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    if len(names) <= MOST_NAMES:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)
