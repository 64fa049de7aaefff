"""Checks of a run before its ranks start: layout, data and tokenizer (imports no torch)."""

from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import Manifest, load_manifest
from data_pipeline.tokenizer import load_tokenizer
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.objectives.build import check_manifest, check_splits, ids_needed
from pretrain.parallel.layout_checks import check_layout, with_length
from pretrain.run_file import with_chunk
from spectral.modules.frame_length import automatic_chunk


def check_run(run: RunConfig, num_ranks: int, checkpoint: Path | None = None) -> None:
    """Check, before any rank starts, for problems that would stop all of them.

    Args:
        run: The run.
        num_ranks: Number of processes that it is started with.
        checkpoint: The checkpoint that it resumes from; None for a start from scratch.

    Raises:
        RunError: The layout is impossible, a part of the model could not learn, a key would do
            nothing that matters, a text is missing, or another tokenizer made the shards.
        DataError: A dataset is missing or unreadable, or holds nothing to predict.
    """
    run = with_chunk(run, checkpoint)
    check_layout(run, num_ranks)
    if run.train.activation_offload and run.train.activation_checkpointing == "none":
        raise RunError(
            "train.activation_offload is true with train.activation_checkpointing 'none', which "
            "keeps no inputs to move; expected 'selective' or 'full', or activation_offload false"
        )
    if checkpoint is None:
        for length in (
            *(length for _, length in run.train.length_warmup),
            run.data.sequence_length,
        ):
            check_chunks(with_length(run, length))
    for file in run.evaluate.texts if run.evaluate.every else ():
        if not file.is_file():
            raise RunError(f"evaluate.texts: {file} is no file; expected UTF-8 text")
    if not run.data.datasets:
        raise RunError('data.datasets is empty; expected for example [{ path = "data/train" }]')
    manifests: dict[str, Manifest] = {}
    for path in [*(dataset.path for dataset in run.data.datasets), run.data.valid]:
        if path:
            manifest = manifests[path] = load_manifest(path, run.data.storage)
            check_tokenizer(run, manifest.tokenizer.fingerprint)
            check_manifest(run, path, manifest)
            # the first token of a document is predicted from nothing
            if manifest.tokens <= manifest.samples and _is_read(run, path):
                raise DataError(
                    f"{path}: its manifest lists {manifest.tokens} tokens in {manifest.samples} "
                    "documents, so there is nothing to predict; expected text: build it from more "
                    "documents or with another valid_fraction, or do without data.valid "
                    "(train.validate_every = 0)"
                )
    check_splits(run, manifests)


def check_chunks(run: RunConfig) -> None:
    """Check that sequences are long enough for parts of the model that read earlier chunks.

    Raises:
        RunError: A sequence is one chunk, so that such a part would get no gradient.
    """
    length = run.data.sequence_length
    for key, chunk in run.model.chunk_units():
        if chunk >= length:
            raise RunError(
                f"model.{key} is {chunk} and data.sequence_length {length}: a sequence is a single "
                f"chunk, and what reads earlier chunks would not learn; expected a chunk of at "
                f"most {max(1, length - 1)}, better {automatic_chunk(length)}, or longer sequences"
            )


def _is_read(run: RunConfig, path: str) -> bool:
    """Whether training reads a dataset: not a held-out split without validations."""
    return path != run.data.valid or run.train.validate_every > 0


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
    if (needed := ids_needed(run, tokenizer.vocab_size)) > run.model.vocab_size:
        mask = "" if needed == tokenizer.vocab_size else " and one for the mask"
        raise RunError(
            f"model.vocab_size is {run.model.vocab_size}; expected at least the tokenizer's "
            f"{tokenizer.vocab_size}{mask}"
        )
    return None if tokenizer.kind == "byte" else Path(tokenizer.path)
