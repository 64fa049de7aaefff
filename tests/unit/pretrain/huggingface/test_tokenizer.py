"""Exported tokenizers: the ids of training, control tokens as users of transformers expect them."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from data_pipeline.tokenizer import Tokenizer, load_tokenizer
from pretrain.errors import RunError
from pretrain.huggingface import export
from pretrain.huggingface.model_card import model_card
from pretrain.huggingface.sentencepiece_bpe import exact_merges
from pretrain.huggingface.tokenizer import huggingface_tokenizer
from pretrain.huggingface.wrap import wrap
from spectral.config import ModelConfig
from spectral.lm import SpectralLM
from tests.tokenizers_in_use import (
    ANY_TEXT,
    BLANKS,
    CONTROLS,
    HUGGING_FACE,
    SENTENCEPIECE,
    TEXTS,
    save_folder,
    save_model,
)

# what transformers can express loads without code of the folder, and without SentencePiece
FAST = ("llama", "plain bpe", "byte", *HUGGING_FACE)
VOCAB_SIZE = 512


@pytest.fixture(scope="module", params=[*SENTENCEPIECE, "byte", *HUGGING_FACE])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _tokenizer(name: str, folder: Path) -> Tokenizer:
    if name == "byte":
        return load_tokenizer("byte")
    save = save_folder if name in HUGGING_FACE else save_model
    return load_tokenizer(save(name, folder))


@pytest.fixture(scope="module")
def tokenizer(name: str, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return _tokenizer(name, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    huggingface_tokenizer(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


def _check(text: str, tokenizer: Tokenizer, exported: PreTrainedTokenizerBase) -> None:
    ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    if not any(control in text for control in CONTROLS):
        assert exported.encode(text) == ids
    elif tokenizer.kind != "huggingface":
        assert exported.encode(text, split_special_tokens=True) == ids


def test_difficult_texts(
    tokenizer: Tokenizer, exported: PreTrainedTokenizerBase, folder: Path, name: str
) -> None:
    again = load_tokenizer(folder)
    for text in [*TEXTS, *(f"a{c}{c} {c}b" for c in BLANKS)]:
        _check(text, tokenizer, exported)
        assert again.encode(text) == tokenizer.encode(text)
        ids = tokenizer.encode(text)
        assert exported.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
    assert (again.bos_id, again.eos_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert (folder / "tokenizer.json").exists() == exported.is_fast == (name in FAST)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(text=ANY_TEXT)
def test_any_text(text: str, tokenizer: Tokenizer, exported: PreTrainedTokenizerBase) -> None:
    _check(text, tokenizer, exported)


def test_control_tokens_can_be_written_and_added(
    tokenizer: Tokenizer, exported: PreTrainedTokenizerBase, folder: Path
) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert not config.get("split_special_tokens")
    end = exported.eos_token
    assert exported.eos_token_id == tokenizer.eos_id
    ids = exported.encode(f"the{end}fox", add_special_tokens=False)
    assert ids == [*tokenizer.encode("the"), tokenizer.eos_id, *tokenizer.encode("fox")]
    assert tokenizer.eos_id not in tokenizer.encode(f"the{end}fox")
    changed = pickle.loads(pickle.dumps(exported))
    assert changed.encode("the fox") == exported.encode("the fox")
    assert changed.add_special_tokens({"additional_special_tokens": ["<|turn|>"]}) == 1
    assert len(changed.encode("<|turn|>", add_special_tokens=False)) == 1


def test_one_merge_per_piece_in_the_order_of_sentencepiece() -> None:
    scores = {"a": -9.0, "b": -9.5, "ab": -2.0, "aba": -1.0, "ba": -3.0, "bb b": -4.0}
    # ab comes first, so aba is never made of a and ba; nothing joins to "bb b"
    assert exact_merges(scores) == [("ab", "a"), ("a", "b"), ("b", "a")]
    assert exact_merges({"a": 0.0, "b": 0.0, "ab": -1.0, "ba": -1.0}) is None


def _model() -> SpectralLM:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=VOCAB_SIZE, dim=32, num_layers=2, num_heads=4, num_modes=4, conv_chunk=8,
        recall_chunk=8, ffn_dim=48,
    )  # fmt: skip
    model = SpectralLM(config).eval()
    with torch.no_grad():
        # rows of ids that no token has, which would otherwise be chosen
        model.embedding.weight[-64:].mul_(300.0)
    return model


@pytest.mark.parametrize("name", ["gemma", "t5", "llama", "words with holes"])
def test_a_whole_folder_is_compared_and_never_writes_ids_of_no_token(
    name: str, tmp_path: Path
) -> None:
    model, tokenizer = _model(), _tokenizer(name, tmp_path)
    assert tokenizer.vocab_size < VOCAB_SIZE - 64
    folder = tmp_path / "folder"
    export.write_folder(folder, model, tokenizer)
    proof = export.prove(export.observe(model, tokenizer), tokenizer, folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    prompt = torch.tensor([[tokenizer.bos_id, 7, 21], [tokenizer.bos_id, 14, 7]])
    chosen = loaded(prompt).logits[:, -1].argmax(-1)
    assert bool((chosen >= tokenizer.vocab_size).all()), "the model prefers ids of no token"
    mask = torch.ones_like(prompt)
    for wrapped in (loaded, wrap(model, tokenizer)):
        for options in (
            {"do_sample": False},
            {"do_sample": True, "temperature": 2.0},
            {"do_sample": True, "top_k": 1},
            {"do_sample": True, "top_p": 0.01},
            {"num_beams": 3, "do_sample": False},
            {"num_beams": 4, "beam_groups": 2, "diversity_penalty": 1.0},
            {"do_sample": False, "suppress_tokens": [21]},
        ):
            tokens = wrapped.generate(prompt, attention_mask=mask, max_new_tokens=6, **options)
            assert int(tokens.max()) < tokenizer.vocab_size
            if "suppress_tokens" in options:
                assert 21 not in tokens[:, 3:]
    card = model_card(model, tokenizer, tmp_path, proof, [])
    assert "split_special_tokens=True" in card
    assert f"The tokenizer has {tokenizer.vocab_size:,} ids, the model 512" in card
    # ids of tokens that were added downstream may be generated
    loaded.resize_token_embeddings(VOCAB_SIZE)
    tokens = loaded.generate(prompt, attention_mask=mask, max_new_tokens=2, do_sample=False)
    assert int(tokens.max()) >= tokenizer.vocab_size


def test_a_tokenizer_with_other_ids_is_refused(tmp_path: Path) -> None:
    model, tokenizer = _model(), _tokenizer("t5", tmp_path)
    other = _tokenizer("default bpe", tmp_path)
    export.write_folder(tmp_path / "folder", model, other)
    with pytest.raises(RunError, match=r"the exported tokenizer gives \d+ ids for .* of training"):
        export.prove(export.observe(model, tokenizer), tokenizer, tmp_path / "folder")
