"""Messages about a run that is resumed: nothing is left to do, or keys have changed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.idle_keys import leaves
from pretrain.checkpoint.catalog import list_checkpoints
from pretrain.config import RunConfig
from pretrain.monitoring.jsonl import read_metrics
from pretrain.run_file import load_saved_run, stored_form
from pretrain.runtime.precision import precision_name
from pretrain.training.schedule import learning_rate_at

# keys of the schedule, whose consequence is computed
SCHEDULE = (
    "train.steps",
    "optim.schedule",
    "optim.learning_rate",
    "optim.final_ratio",
    "optim.warmup_steps",
    "optim.warmup_share",
    "optim.schedule_by",
    "optim.decay_start",
    "optim.decay_steps",
    "optim.decay_share",
)
_SAME = "the results of training do not depend on it"
# consequence of a changed key, by the longest of its prefixes; other keys cannot change
CONSEQUENCES = {
    "data": "the same data is read in another way",
    "data.datasets": "later steps draw from the new mixture; an added dataset starts at its "
    "beginning",
    "data.lanes": "only datasets that are added are read in the new number of lanes",
    "data.sequence_length": "later windows have the new length",
    "data.tokenizer": "the same tokenizer is read from there",
    "data.valid": "validation losses before and after are of different texts",
    "data.storage": _SAME,
    "data.cache": _SAME,
    "data.cache_bytes": _SAME,
    "objective": "later steps learn by the new rule",
    "optim": "later steps use the new value with the optimizer's stored state",
    "optim.scale": "later steps use the rates that it gives each kind of parameter",
    "optim.base_width": "later steps use the rates that it gives each kind of parameter",
    "optim.name": "parameters stay, and the optimizer's state (momentum and second moments of all "
    "parameters) is begun again",
    "optim.average_decay": "the average follows it from the next step on; one that the checkpoint "
    "lacks begins at its parameters",
    "train.output": "records and checkpoints are written there",
    "train.branch_from": "it matters before the run's first checkpoint only",
    "train.global_batch_size": "later steps read the new number of windows, at the learning rate "
    "of the schedule",
    "train.batch_warmup": "later steps read the number of windows that it gives them",
    "train.length_warmup": "later windows have the length that it gives them",
    "train.micro_batch_size": "rounding differs, and with experts or gates their auxiliary losses",
    "train.seed": "dropout and selection noise of later steps differ; parameters and the order of "
    "the data are the checkpoint's",
    "train.precision": "later steps are computed in the new precision",
    "train.gradient_reduction": "later gradients are summed in the new precision",
    "train.initial_loss_scale": "the checkpoint's loss scale stays",
    "train.loss_scale_window": "the loss scale follows it from the next step on",
    "train.compile": "speed changes, and results by rounding",
    "train.activation": "memory and speed change, results do not",
    "train.validate": "it applies to the validations from now on",
    "train.z_loss": "gradients of later steps have the new weight",
    "train.wandb": _SAME,
    "parallel": "the checkpoint is read into the new layout; losses differ by rounding",
    "checkpoint": "it applies from the next checkpoint on",
    "evaluate": "it applies to the evaluations from now on",
    "guard": "it applies from the next step on",
    "health": _SAME,
    "monitor": _SAME,
    "launch": _SAME,
}


def nothing_left(run: RunConfig, checkpoint: Path) -> str:
    """Message that a checkpoint is the end of a run; empty if work is left.

    A validation or evaluation of the last step and copies to the store are work, too.
    """
    step = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["step"]
    if step < run.train.steps or not _is_measured(run, step) or not _is_stored(run):
        return ""
    return (
        f"nothing left to do: {checkpoint} is of step {step} and train.steps is {run.train.steps}; "
        "a larger train.steps continues the run"
    )


def _is_measured(run: RunConfig, step: int) -> bool:
    keys = []
    if run.data.valid and run.train.validate_every:
        keys.append("valid_loss")
    if run.evaluate.every:
        keys.append("eval_seconds")
    records = read_metrics(run.train.output / "metrics.jsonl") if keys else []
    of_step = [record for record in records if record["step"] == step]
    return all(any(key in record for record in of_step) for key in keys)


def _is_stored(run: RunConfig) -> bool:
    if not run.checkpoint.remote:
        return True
    # imported only by the runs that need it
    from pretrain.checkpoint.remote import is_stored

    checkpoints = list_checkpoints(run.train.output)
    try:
        return all(is_stored(c, run.checkpoint.remote, run.data.storage) for c in checkpoints)
    except DataError:
        # the attempt to upload reports what is wrong with the store
        return False


def changed_keys(run: RunConfig, checkpoint: Path, step: int) -> Iterator[str]:
    """A line for each key that differs from the run of a checkpoint, with its consequence.

    Args:
        run: The run that resumes.
        checkpoint: The checkpoint that it resumes from.
        step: Optimizer steps in the checkpoint.
    """
    saved = load_saved_run(checkpoint)
    before = dict(leaves(saved))
    for key, value in leaves(stored_form(run)):
        if value != before[key]:
            of_schedule = key in SCHEDULE
            effect = _of_schedule(saved, run, step) if of_schedule else consequence_of(key)
            yield f"{key} {_change(before[key], value)}: {effect}"
    if saved.train.precision == run.train.precision == "auto":
        yield from _precision_of_auto(checkpoint)


def _precision_of_auto(checkpoint: Path) -> Iterator[str]:
    """A line if `auto` stood for another precision where the checkpoint was written."""
    file = checkpoint / "state.json"
    state = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    now = precision_name("auto")
    # earlier versions did not record it
    before = state.get("precision", now)
    if before != now:
        effect = consequence_of("train.precision")
        yield f"train.precision auto was {before} there and is {now} here: {effect}"


def consequence_of(key: str) -> str:
    """Consequence of a changed key that is not one of the schedule."""
    prefixes = [prefix for prefix in CONSEQUENCES if key.startswith(prefix)]
    return CONSEQUENCES[max(prefixes, key=len)]


def _of_schedule(saved: RunConfig, run: RunConfig, step: int) -> str:
    before, now = (learning_rate_at(step, each) for each in (saved, run))
    if abs(now - before) <= 1e-9 * before:
        return f"the learning rate stays {now:.4g} in step {step + 1} and then takes another course"
    return f"the learning rate of step {step + 1} changes from {before:.4g} to {now:.4g}"


def _change(before: Any, now: Any) -> str:
    texts = [str(before), str(now)]
    # URLs and variables of the environment may hold credentials
    if any(len(text) > 80 or "://" in text or text.startswith(("(", "{")) for text in texts):
        return "has changed"
    return f"was {texts[0]} and is now {texts[1]}"
