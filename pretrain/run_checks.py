"""Checks of a run before its ranks start: layout, data and tokenizer (imports no torch)."""

from pathlib import Path

from data_pipeline.shards.manifest import load_manifest
from data_pipeline.tokenizer import load_tokenizer
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.parallel.layout_checks import check_layout


def check_run(run: RunConfig, num_ranks: int) -> None:
    """Check, before any rank starts, for problems that would stop all of them.

    Raises:
        RunError: The layout is impossible, or another tokenizer made the shards.
        DataError: A dataset is missing or unreadable.
    """
    check_layout(run, num_ranks)
    if not run.data.datasets:
        raise RunError('data.datasets is empty; expected for example [{ path = "data/train" }]')
    for path in [*(dataset.path for dataset in run.data.datasets), run.data.valid]:
        if path:
            check_tokenizer(run, load_manifest(path, run.data.storage).tokenizer.fingerprint)


def check_tokenizer(run: RunConfig, fingerprint: str) -> Path | None:
    """Path of the run's tokenizer, to be copied into checkpoints; None for bytes.

    Args:
        run: The run, with its tokenizer and vocabulary size.
        fingerprint: Fingerprint of the tokenizer that made the shards.

    Raises:
        RunError: The run's tokenizer is another one, or the model's vocabulary is too small for it.
    """
    tokenizer = load_tokenizer(run.data.tokenizer)
    if tokenizer.fingerprint != fingerprint:
        raise RunError(
            f"data.tokenizer {run.data.tokenizer} has fingerprint {tokenizer.fingerprint[:12]}; "
            f"expected that of the shards, {fingerprint[:12]}"
        )
    if tokenizer.vocab_size > run.model.vocab_size:
        raise RunError(
            f"model.vocab_size is {run.model.vocab_size}; expected at least the tokenizer's "
            f"{tokenizer.vocab_size}"
        )
    return None if tokenizer.kind == "byte" else Path(tokenizer.path)
