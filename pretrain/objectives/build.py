"""The module of a run's objective (imports no torch)."""

import functools
from collections.abc import Mapping

from data_pipeline.shards.manifest import Manifest
from data_pipeline.stream.packing import Preparing
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.objectives import classify, masked_token

# documents that objectives read; others read texts
KINDS = {"classify": "labelled", "text_to_text": "pairs"}


def preparing_of(run: RunConfig) -> Preparing | None:
    """Maker of the function that changes rows before they are batches; None if none does."""
    if run.objective.kind == "masked_token":
        return functools.partial(masked_token.preparation, run)
    return None


def check_manifest(run: RunConfig, path: str, manifest: Manifest) -> None:
    """Check that a run can learn from a dataset.

    Raises:
        RunError: It holds another kind of documents, or other labels.
    """
    kind = KINDS.get(run.objective.kind, "texts")
    if manifest.kind != kind:
        raise RunError(
            f"{path}: holds {manifest.kind}; expected {kind} for objective.kind "
            f"{run.objective.kind} (resonance data build --kind {kind})"
        )
    if kind == "labelled":
        classify.check_labels(run, path, manifest)


def check_splits(run: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Check that the datasets of a run, by path, fit together.

    Raises:
        RunError: Labels differ, or one is held out only.
    """
    if run.objective.kind == "classify":
        classify.check_label_splits(run, manifests)


def report_of(run: RunConfig, nll: float, labels: float, correct: float) -> dict[str, float]:
    """The figures of a validation, from its sums: loss per token or text; of labels, accuracy."""
    report = {"valid_loss": nll / max(labels, 1.0)}
    if run.objective.kind == "classify":
        report["valid_accuracy"] = correct / max(labels, 1.0)
    return report


def ids_needed(run: RunConfig, tokenizer_size: int) -> int:
    """Least vocabulary of a model for a tokenizer."""
    if run.objective.kind == "masked_token":
        return masked_token.ids_needed(tokenizer_size)
    return tokenizer_size
