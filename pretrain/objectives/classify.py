"""Labels of texts (imports no torch)."""

from collections.abc import Mapping

from data_pipeline.shards.manifest import Manifest
from pretrain.config import RunConfig
from pretrain.errors import RunError


def check_labels(run: RunConfig, path: str, manifest: Manifest) -> None:
    """Check that a dataset has the labels that the model predicts.

    Raises:
        RunError: It has another number of labels, other names, or several for a text.
    """
    model, names = run.model, run.objective.labels
    if len(manifest.labels) != model.classes:
        raise RunError(
            f"model.classes is {model.classes}; expected {len(manifest.labels)}, the labels of "
            f"{path}"
        )
    if manifest.multi_label != model.multi_label:
        raise RunError(
            f"model.multi_label is {str(model.multi_label).lower()}; expected "
            f"{str(manifest.multi_label).lower()}, as the labels of {path}"
        )
    if names and names != manifest.labels:
        number = next(
            i for i, pair in enumerate(zip(names, manifest.labels, strict=True)) if len({*pair}) > 1
        )
        raise RunError(
            f"objective.labels: number {number} is {names[number]!r}; expected "
            f"{manifest.labels[number]!r}, as in {path}: build it with --labels-of"
        )


def check_label_splits(run: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Check that every label of the held-out split is in the training data.

    Raises:
        RunError: One is held out only, or the splits have other labels.
    """
    first = run.data.datasets[0].path
    for path, manifest in manifests.items():
        if manifest.labels != manifests[first].labels:
            raise RunError(
                f"{path}: other labels than {first}; expected the same in the same order: build it "
                "with --labels-of"
            )
    if not run.data.valid:
        return
    train = {dataset.path for dataset in run.data.datasets}
    for number, name in enumerate(manifests[first].labels):
        trained = sum(manifests[path].label_counts[number] for path in train)
        held_out = manifests[run.data.valid].label_counts[number]
        if held_out and not trained:
            raise RunError(
                f"{run.data.valid}: {held_out} texts have the label {name!r}, which no text of the "
                "training data has; expected some there: build with another valid_fraction"
            )


def with_labels(run: RunConfig, labels: tuple[str, ...]) -> RunConfig:
    """The run with the names of its data's labels, which checkpoints and exports keep."""
    if not run.model.classes or run.objective.labels:
        return run
    objective = run.objective.model_copy(update={"labels": labels})
    return run.model_copy(update={"objective": objective})
