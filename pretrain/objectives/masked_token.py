"""Tokens hidden by a mask, predicted from both sides (imports no torch)."""

from data_pipeline.shards.manifest import TokenizerEntry
from data_pipeline.stream.masking import Masking
from data_pipeline.stream.packing import Preparation
from pretrain.config import RunConfig


def mask_id(tokenizer_size: int) -> int:
    """Id of the mask: the first that the tokenizer does not have."""
    return tokenizer_size


def preparation(run: RunConfig, tokenizer: TokenizerEntry) -> Preparation:
    """How rows become batches: which tokens of a run are masked, and by what."""
    objective = run.objective
    masking = Masking(
        seed=run.data.seed,
        rate=objective.mask_rate,
        span=objective.mask_span,
        random=objective.mask_random,
        keep=objective.mask_keep,
        mask_id=mask_id(tokenizer.vocab_size),
        vocab_size=tokenizer.vocab_size,
        specials=(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id),
    )
    return masking.apply


def ids_needed(tokenizer_size: int) -> int:
    """Rows of the embedding that a model needs."""
    return mask_id(tokenizer_size) + 1
