"""Every option of generation, with the recurrent cache and without it."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.huggingface.configuration_resonance import ResonanceConfig
from pretrain.huggingface.modeling_resonance import ResonanceForCausalLM
from pretrain.huggingface.search.coverage_penalty import CoveragePenalty
from pretrain.huggingface.search.diverse_beam_search import diverse_beam_search
from spectral.config import ModelConfig

PROMPTS = torch.tensor([[1, 7, 8, 9], [1, 9, 9, 3]])


@pytest.fixture(scope="module")
def model() -> ResonanceForCausalLM:
    torch.manual_seed(3)
    config = ModelConfig(
        vocab_size=40,
        dim=32,
        num_layers=2,
        num_heads=4,
        num_modes=4,
        conv_chunk=8,
        recall_chunk=8,
        ffn_dim=48,
    )
    values = config.model_dump() | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = ResonanceForCausalLM(ResonanceConfig(**values)).eval()
    with torch.no_grad():
        # far from uniform: otherwise every option does the same
        model.model.embedding.weight.mul_(12.0)
    return model


def _generate(model: ResonanceForCausalLM, **options: Any) -> Tensor:
    torch.manual_seed(0)
    mask = torch.ones_like(PROMPTS)
    found: Tensor = model.generate(PROMPTS, attention_mask=mask, max_new_tokens=12, **options)
    return found


OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 1.5},
    "top-k": {"do_sample": True, "top_k": 3},
    "top-p": {"do_sample": True, "top_p": 0.4},
    "beam": {"num_beams": 4, "do_sample": False},
    "early stopping": {"num_beams": 4, "do_sample": False, "early_stopping": True},
    "length normalisation": {"num_beams": 4, "do_sample": False, "length_penalty": -3.0},
    "diverse beam": {"num_beams": 4, "beam_groups": 2, "diversity_penalty": 5.0},
    "repetition penalty": {"do_sample": False, "repetition_penalty": 3.0},
    "no repeated n-grams": {"do_sample": False, "no_repeat_ngram_size": 2},
    "coverage": {"do_sample": False, "coverage_penalty": 20.0},
    "shortest length": {"do_sample": False, "min_new_tokens": 12},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_cache_changes_nothing(name: str, model: ResonanceForCausalLM) -> None:
    cached, whole = (
        _generate(model, use_cache=cached, **OPTIONS[name]) for cached in (True, False)
    )
    assert torch.equal(cached, whole)
    assert torch.equal(cached[:, :4], PROMPTS)


def test_options_do_what_they_say(model: ResonanceForCausalLM) -> None:
    greedy = _generate(model, do_sample=False)[:, 4:]
    unique = _generate(model, **OPTIONS["no repeated n-grams"])
    for row in unique.tolist():
        pairs = [pair for pair in itertools.pairwise(row) if 0 not in pair]
        assert len(pairs) == len(set(pairs))
    covered = _generate(model, **OPTIONS["coverage"])[:, 4:]
    for before, after in zip(greedy, covered, strict=True):
        assert after.unique().numel() > before.unique().numel()
    longest = _generate(model, **OPTIONS["shortest length"])[:, 4:]
    assert longest.shape[1] == 12
    assert not longest.eq(2).any()


def test_coverage_counts_what_was_generated_only() -> None:
    scores = torch.zeros(1, 6)
    found = CoveragePenalty(2.0, prompt_tokens=2)(torch.tensor([[3, 3, 5, 4, 5]]), scores)
    expected = torch.tensor([[0.0, 0.0, 0.0, 0.0, -2.0, -2.0]])
    expected *= torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0, 3.0]).clamp_min(1.0).log()
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="coverage_penalty: expected at least 0, got -1"):
        CoveragePenalty(-1.0, 0)


def test_one_group_is_beam_search(model: ResonanceForCausalLM) -> None:
    options = {"num_beams": 4, "do_sample": False, "num_return_sequences": 2}
    for more in ({}, {"early_stopping": True}, {"length_penalty": 0.0}, {"length_penalty": 2.0}):
        beams = _generate(model, **options, **more)
        one_group = _generate(model, custom_generate=diverse_beam_search, **options, **more)
        assert torch.equal(one_group, beams), more


def test_groups_differ_the_more_the_higher_the_penalty(model: ResonanceForCausalLM) -> None:
    options = {"num_beams": 4, "beam_groups": 4, "num_return_sequences": 4}
    alike = _generate(model, **options, diversity_penalty=0.0)
    unlike = _generate(model, **options, diversity_penalty=50.0)
    # four groups of one beam that do not see each other are four times the greedy search
    assert len({tuple(row) for row in alike[:4].tolist()}) == 1
    assert len({tuple(row) for row in unlike[:4].tolist()}) == 4
    assert len(set(unlike[:4, 4].tolist())) == 4
    with pytest.raises(ValueError, match="expected a divisor of num_beams 4, got 3"):
        _generate(model, num_beams=4, beam_groups=3)


def test_gradient_checkpointing_gives_the_same_gradients(model: ResonanceForCausalLM) -> None:
    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(PROMPTS, labels=PROMPTS).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    model.train()
    kept = gradients()
    model.activation_checkpointing_enable()
    assert model.model.activation_checkpointing == 1
    for one, other in zip(gradients(), kept, strict=True):
        torch.testing.assert_close(one, other)
    model.activation_checkpointing_disable()
    model.eval()


def test_hidden_states_are_those_of_the_layers(model: ResonanceForCausalLM) -> None:
    states = model(PROMPTS, output_hidden_states=True).hidden_states
    assert len(states) == 3
    torch.testing.assert_close(states[0], model.model.embedding(PROMPTS))
    logits = states[-1] @ model.model.embedding.table().T
    torch.testing.assert_close(logits, model(PROMPTS).logits)
