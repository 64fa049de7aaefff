"""`resonance evaluate`: a held-out split, text files or lm-eval tasks."""

from pretrain.commands import EvaluateCommand
from pretrain.errors import RunError
from pretrain.evaluation.split import evaluate_split
from pretrain.evaluation.text import evaluate_text


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
    return evaluate_split(command)
