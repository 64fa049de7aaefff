"""Inputs and outputs that tools of the transformers ecosystem use."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from pretrain.huggingface.modeling_resonance import ResonanceForCausalLM
from tests.unit.pretrain.huggingface.models import FEATURES, ids, small_causal_lm

# float32 sums in another order, for logits of the order of 1
EXACT: dict[str, float] = {"atol": 2e-5, "rtol": 0.0}
LENGTHS = (13, 5, 21, 9)
ROWS = [ids(length, seed=length)[0] for length in LENGTHS]


@pytest.fixture(scope="module", params=FEATURES)
def model(request: pytest.FixtureRequest) -> ResonanceForCausalLM:
    return small_causal_lm(**FEATURES[request.param])


def _padded(side: str) -> tuple[Tensor, Tensor]:
    """All rows in one batch, and its mask."""
    width = max(LENGTHS)
    offsets = {
        "left": [width - length for length in LENGTHS],
        "right": [0] * 4,
        "both": [3, 7, 0, 1],
    }[side]
    tokens, mask = (torch.zeros(4, width, dtype=torch.long) for _ in range(2))
    for row, (offset, values) in enumerate(zip(offsets, ROWS, strict=True)):
        tokens[row, offset : offset + len(values)] = values
        mask[row, offset : offset + len(values)] = 1
    return tokens, mask


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("cached", [False, True])
@torch.no_grad()
def test_padding_and_batch_mates_change_nothing(
    model: ResonanceForCausalLM, side: str, cached: bool
) -> None:
    tokens, mask = _padded(side)
    batch = model(tokens, attention_mask=mask, use_cache=cached, output_hidden_states=True)
    # padding also between the cached tokens and new ones, and instead of new ones
    more = ids(6, rows=4, seed=1)
    more_mask = torch.ones_like(more)
    more_mask[1, :3] = more_mask[2, 4:] = more_mask[3] = 0
    for row, values in enumerate(ROWS):
        alone = model(values[None], output_hidden_states=True)
        real = mask[row] == 1
        torch.testing.assert_close(batch.logits[row, real], alone.logits[0], **EXACT)
        for state, expected in zip(batch.hidden_states, alone.hidden_states, strict=True):
            torch.testing.assert_close(state[row, real], expected[0], **EXACT)
    if not cached:
        return
    masks = torch.cat([mask, more_mask], dim=1)
    rest = model(more, attention_mask=masks, past_key_values=batch.past_key_values)
    last = model(more[:, :1], past_key_values=rest.past_key_values)
    for row, values in enumerate(ROWS):
        real = more_mask[row] == 1
        whole = model(torch.cat([values, more[row, real], more[row, :1]])[None]).logits[0]
        continued = torch.cat([rest.logits[row, real], last.logits[row]])
        torch.testing.assert_close(continued, whole[len(values) :], **EXACT)


@torch.no_grad()
def test_a_padded_batch_generates_what_single_rows_do(model: ResonanceForCausalLM) -> None:
    tokens, mask = _padded("left")
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    batch = model.generate(tokens, attention_mask=mask, **options)
    embedded = model.generate(
        inputs_embeds=model.get_input_embeddings()(tokens), attention_mask=mask, **options
    )
    for row, values in enumerate(ROWS):
        alone = model.generate(values[None], attention_mask=torch.ones(1, len(values)), **options)
        assert torch.equal(batch[row, tokens.shape[1] :], alone[0, len(values) :])
        assert torch.equal(embedded[row], alone[0, len(values) :])


def _documents() -> dict[str, dict[str, Any]]:
    second = (torch.arange(20) >= 9).int()[None]
    positions = torch.cat([torch.arange(9), torch.arange(11)])[None]
    borders = torch.tensor([0, 9, 20], dtype=torch.int32)
    lengths = {"max_length_q": 11, "max_length_k": 11}
    return {
        "position_ids": {"position_ids": positions},
        "seq_idx": {"seq_idx": second},
        "cu_seq_lens": {"cu_seq_lens": borders},
        "cu_seq_lens_q": {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, **lengths},
        "attention_mask": {"attention_mask": 1 + second},
    }


@pytest.mark.parametrize("name", _documents())
@torch.no_grad()
def test_packed_documents_do_not_affect_one_another(model: ResonanceForCausalLM, name: str) -> None:
    tokens, told = ids(20), _documents()[name]
    logits = model(tokens, **told).logits
    other = tokens.clone()
    other[:, :9] = 7
    torch.testing.assert_close(model(other, **told).logits[:, 9:], logits[:, 9:], **EXACT)
    # and without being told they do
    assert (model(other).logits - model(tokens).logits)[:, 9:].abs().max() > 1e-2
    first = model(tokens[:, :9]).logits
    torch.testing.assert_close(logits[:, :9], first, **EXACT)


def test_padding_inside_a_document_does_not_end_it() -> None:
    model = small_causal_lm()
    tokens, mask = ids(12), torch.ones(1, 12, dtype=torch.long)
    mask[:, 4:6] = 0
    # as transformers counts positions from a mask
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    whole = model(tokens[:, mask[0] == 1]).logits
    for told in ({}, {"position_ids": positions}):
        logits = model(tokens, attention_mask=mask, **told).logits[:, mask[0] == 1]
        torch.testing.assert_close(logits, whole, **EXACT)


def test_vectors_are_as_good_as_ids(model: ResonanceForCausalLM) -> None:
    tokens = ids(20, rows=2)
    vectors = model.get_input_embeddings()(tokens)
    torch.testing.assert_close(model(inputs_embeds=vectors).logits, model(tokens).logits, **EXACT)
    backbone = model.model(inputs_embeds=vectors, output_hidden_states=True)
    torch.testing.assert_close(backbone.last_hidden_state, backbone.hidden_states[-1])
    assert len(backbone.hidden_states) == 3
    assert isinstance(model(tokens, return_dict=False), tuple)


def test_the_loss_knows_transformers_keywords() -> None:
    model, tokens = small_causal_lm(), ids(20, rows=2)
    model.train()
    plain = model(tokens, labels=tokens).loss
    torch.testing.assert_close(model(tokens, labels=tokens, num_items_in_batch=19).loss, 2 * plain)
    shifted = pad(tokens[:, 1:], (0, 1), value=-100)
    torch.testing.assert_close(model(tokens, shift_labels=shifted).loss, plain)
    ignored = pad(tokens[:, 1:], (0, 1), value=-5)
    loss = model(tokens, labels=tokens, shift_labels=ignored, ignore_index=-5).loss
    torch.testing.assert_close(loss, plain)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"positon_ids": 0}, "unexpected keyword argument 'positon_ids'"),
        ({"position_ids": torch.zeros(2, 3)}, r"position_ids: expected \[1, 20\], got \[2, 3\]"),
        ({"cu_seq_lens": torch.tensor([0, 9, 19])}, "rise from 0 to 20, the number of tokens, got"),
        ({"attention_mask": torch.ones(1, 1, 20, 20)}, r"attention_mask: expected \[1, 20\]"),
        ({"output_attentions": True}, "the model has no attention"),
        ({"past_key_values": []}, "expected a cache that this model returned"),
        ({"inputs_embeds": torch.zeros(1, 20, 32)}, "expected one of input_ids and inputs_embeds"),
        (
            {"cu_seq_lens_q": torch.tensor([0, 20]), "cu_seq_lens_k": torch.tensor([0, 9, 20])},
            "expected equal numbers",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        small_causal_lm()(ids(20), **keywords)


def test_a_cache_is_not_continued_by_a_new_document() -> None:
    model = small_causal_lm()
    cache = model(ids(4), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="expected the first token to continue the cache"):
        model(ids(3), past_key_values=cache, position_ids=torch.arange(3)[None])
    with pytest.raises(ValueError, match="expected 2 rows, as the tokens have, got 1"):
        model(ids(3, rows=2), past_key_values=cache)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_keeps_what_is_small_in_float32(
    model: ResonanceForCausalLM, dtype: torch.dtype
) -> None:
    half, tokens = copy.deepcopy(model).to(dtype), ids(40, rows=4)
    dtypes = {name: p.dtype for name, p in half.named_parameters()}
    assert dtypes["model.blocks.0.mixer.in_proj.weight"] == dtype
    assert all(d == torch.float32 for n, d in dtypes.items() if "norm" in n or "filter" in n)
    loss = half(tokens, labels=tokens).loss
    assert abs(float(loss - model(tokens, labels=tokens).loss)) < 0.01
    first = half(tokens[:, :30], use_cache=True)
    step = half(tokens[:, 30:31], past_key_values=first.past_key_values)
    # signals of the parallel form are rounded to the dtype, those of a step are not
    torch.testing.assert_close(step.logits[:, 0], half(tokens).logits[:, 30], atol=0.05, rtol=0)


def test_gradients_of_half_precision_point_the_same_way(model: ResonanceForCausalLM) -> None:
    tokens = ids(20, rows=2)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        trained = copy.deepcopy(model).to(dtype).train()
        torch.manual_seed(0)
        trained(tokens, labels=tokens).loss.backward()
        # frozen by no gradient: states that nothing reads
        parts = [p.grad.flatten().float() for p in trained.parameters() if p.grad is not None]
        gradients.append(torch.cat(parts))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_copies_and_pickles_are_equal(model: ResonanceForCausalLM) -> None:
    tokens = ids(20)
    expected = model(tokens).logits
    assert torch.equal(copy.deepcopy(model)(tokens).logits, expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(tokens).logits, expected)


def test_added_tokens_keep_the_old_ones(model: ResonanceForCausalLM) -> None:
    resized, tokens = copy.deepcopy(model), ids(20)
    resized.resize_token_embeddings(45, mean_resizing=False)
    logits = resized(tokens).logits
    torch.testing.assert_close(logits[..., :40], model(tokens).logits, **EXACT)
    assert logits.shape[-1] == resized.config.vocab_size == resized.config.tokenizer_size == 45
    resized(tokens, labels=tokens).loss.backward()
    head = resized.get_output_embeddings()
    embedding = resized.get_input_embeddings()
    harmonic = resized.config.embedding == "harmonic"
    assert torch.equal(head.weight, embedding.table() if harmonic else embedding.weight)


def test_every_second_layer_is_recomputed_on_demand() -> None:
    model, tokens = small_causal_lm().train(), ids(20)
    model.activation_checkpointing_enable(every_n_layers=2)
    assert (model.model.activation_checkpointing, model.is_activation_checkpointing) == (2, True)
    model(tokens, labels=tokens).loss.backward()
    model.activation_checkpointing_disable()
    assert (model.model.activation_checkpointing, model.is_activation_checkpointing) == (0, False)
