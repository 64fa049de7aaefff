"""`resonance evaluate`: a held-out split, text files or lm-eval tasks."""

from pretrain.checkpoint.catalog import find_checkpoint
from pretrain.commands import EvaluateCommand
from pretrain.errors import RunError
from pretrain.evaluation.labels import evaluate_labels
from pretrain.evaluation.masked import evaluate_masked
from pretrain.evaluation.split import evaluate_split
from pretrain.evaluation.text import evaluate_text
from pretrain.run_file import load_saved_run


def evaluate(command: EvaluateCommand) -> object:
    """Evaluate a model on a split, text files or tasks (`resonance evaluate`).

    Returns:
        A printable result.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        DataError: The split is missing or damaged.
        RunError: The options contradict one another, or a file cannot be read.
    """
    if command.text and command.tasks:
        raise RunError("--text and --tasks: expected one of them")
    if command.text:
        return evaluate_text(command)
    if command.tasks:
        # lm-eval is an extra
        from pretrain.evaluation.lm_eval_harness import evaluate_tasks

        return evaluate_tasks(command)
    kind = load_saved_run(find_checkpoint(command.checkpoint)).objective.kind
    if kind == "classify":
        return evaluate_labels(command)
    if kind == "text_to_text":
        # sacrebleu is an extra, and generation needs transformers
        from pretrain.evaluation.pairs import evaluate_pairs

        return evaluate_pairs(command)
    return evaluate_masked(command) if kind == "masked_token" else evaluate_split(command)
