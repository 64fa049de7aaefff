"""Targets by transformers' `generate`: what stepping by hand gives, for each source by itself."""

from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.tokenizer import load_tokenizer
from pretrain.commands import GenerationOptions
from pretrain.generation.pairs import PairWriter
from pretrain.huggingface.load import Pretrained
from spectral.config import ModelConfig
from spectral.seq2seq import SpectralSeq2Seq

BYTES = load_tokenizer("byte")
NEW = 6


@pytest.fixture(scope="module")
def model() -> SpectralSeq2Seq:
    torch.manual_seed(0)
    sizes = {"vocab_size": 260, "dim": 32, "num_layers": 1, "num_heads": 4, "ffn_dim": 48}
    return SpectralSeq2Seq(ModelConfig(**sizes, source_layers=1)).eval()


def _written(model: SpectralSeq2Seq, sources: list[str], **options: Any) -> list[list[int]]:
    loaded = Pretrained(model, BYTES, Path("x"), None)
    writer = PairWriter(loaded, GenerationOptions(max_tokens=NEW, min_tokens=NEW, **options))
    return writer.continued([writer.encode(source, "source") for source in sources])


@torch.no_grad()
def _score(model: SpectralSeq2Seq, source: str, target: list[int]) -> float:
    """Log-probability of a target, by the recurrent form, among ids that are text."""
    ids = torch.tensor([[BYTES.bos_id, *BYTES.encode(source), BYTES.eos_id]])
    state = model.start(ids, torch.tensor([ids.shape[1]]))
    total, before = 0.0, BYTES.bos_id
    for place, token in enumerate(target):
        logits, state = model.step_pair(torch.tensor([before]), state)
        logits = logits[0, : BYTES.vocab_size]
        if place < NEW:
            # as long as a target may not end
            logits[BYTES.eos_id] = float("-inf")
        total += float(logits.log_softmax(-1)[token])
        before = token
    return total


def test_greedy_targets_have_the_likeliest_tokens(model: SpectralSeq2Seq) -> None:
    (target,) = _written(model, ["one two"], temperature=0.0)
    assert len(target) == NEW
    for place in range(NEW):
        best = _score(model, "one two", target[: place + 1])
        others = [_score(model, "one two", [*target[:place], token]) for token in range(0, 256, 16)]
        assert best >= max(others)


@pytest.mark.parametrize("options", [{"beams": 1}, {"beams": 3}, {"beams": 4, "beam_groups": 2}])
def test_a_source_is_read_by_itself(options: dict[str, int], model: SpectralSeq2Seq) -> None:
    first, second = "one two", "three four five"
    together = _written(model, [first, second], temperature=0.0, **options)
    assert together == [
        *_written(model, [first], temperature=0.0, **options),
        *_written(model, [second], temperature=0.0, **options),
    ]
    assert together[0] != together[1]


def test_beams_are_not_worse_than_greedy(model: SpectralSeq2Seq) -> None:
    (greedy,) = _written(model, ["one two"], temperature=0.0)
    (beam,) = _written(model, ["one two"], temperature=0.0, beams=4)
    assert _score(model, "one two", beam) >= _score(model, "one two", greedy) - 1e-4
