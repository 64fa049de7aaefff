"""Folders with tokenizer.json: text that spells control tokens is text, ids may have holes."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings

from data_pipeline.errors import DataError
from data_pipeline.tokenizer import load_tokenizer
from tests.tokenizers_in_use import ANY_TEXT, CONTROLS, HUGGING_FACE, TEXTS, save_folder

ANY_KIND = pytest.mark.parametrize("name", HUGGING_FACE)


@ANY_KIND
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(text=ANY_TEXT)
def test_a_text_never_becomes_a_control_token(name: str, tmp_path: Path, text: str) -> None:
    if not (tmp_path / "tokenizer.json").exists():
        save_folder(name, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = tokenizer.encode(text)
    assert {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}.isdisjoint(ids)
    if not any(control in text for control in CONTROLS):
        assert ids == plain.encode(text, add_special_tokens=False).ids


def test_control_tokens_in_byte_level_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_folder("byte level", tmp_path))
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain.encode_special_tokens = True
    for text in (*TEXTS, "<|im_start|>user    x<|im_end|>", "    <|endoftext|>"):
        ids = tokenizer.encode(text)
        assert ids == plain.encode(text).ids
        assert tokenizer.decode(ids) == text
    # the token of four blanks stays a token, and keeps its id behind the control tokens
    assert tokenizer.encode("    ") == [plain.token_to_id("    ")] == [tokenizer.vocab_size - 1]
    # control tokens that the program puts are no text
    assert tokenizer.decode([tokenizer.eos_id, *tokenizer.encode("a"), tokenizer.eos_id]) == "a"


def test_control_tokens_that_are_pieces_of_the_model(tmp_path: Path) -> None:
    for name in ("unigram", "words with holes"):
        (tmp_path / name).mkdir()
        tokenizer = load_tokenizer(save_folder(name, tmp_path / name))
        plain = tokenizers.Tokenizer.from_file(str(tmp_path / name / "tokenizer.json"))
        assert tokenizer.eos_id in plain.encode("the </s> fox").ids
        ids = tokenizer.encode("the </s> fox")
        assert tokenizer.eos_id not in ids
        assert tokenizer.decode([*ids, tokenizer.eos_id]) == tokenizer.decode(ids)
        # neither vocabulary has a letter "<"
        assert tokenizer.unk_id in ids
    # a word that is unknown, between two known ones
    assert ids == [14, 0, 21]
    assert tokenizer.decode(ids) == "the fox"
    assert tokenizer.encode("[UNK]") == [0]


def test_a_merge_cannot_spell_a_control_token(tmp_path: Path) -> None:
    pieces = {"<": 0, "s": 1, ">": 2, "<s": 3, "<s>": 4, "</s>": 5, "s>": 6, "s>s": 7, "<s>s": 8}
    merges = [("<", "s"), ("<s", ">"), ("<s>", "s"), ("s", ">"), ("s>", "s")]
    tokenizers.Tokenizer(tokenizers.models.BPE(pieces, merges)).save(
        str(tmp_path / "tokenizer.json")
    )
    config = '{"eos_token": "</s>", "bos_token": {"content": "<s>"}}'
    (tmp_path / "tokenizer_config.json").write_text(config)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.bos_id == 4
    assert tokenizer.encode("<s>") == [3, 2]
    assert tokenizer.encode("<s>s") == [3, 2, 1]


def test_ids_may_have_holes(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_folder("words with holes", tmp_path))
    assert tokenizer.vocab_size == 29
    assert tokenizer.eos_id == 7


def test_a_control_token_in_a_hole_must_not_be_text(tmp_path: Path) -> None:
    # tokenizers gives the added token the id 3, whatever the file says
    model = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 3, "c": 9}, []))
    model.add_special_tokens(["<end>"])
    model.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    with pytest.raises(DataError, match="'<end>' is a control token and has the id 3 of 'b'"):
        load_tokenizer(tmp_path)


def test_settings_that_change_ids_are_left_out(tmp_path: Path) -> None:
    save_folder("byte level", tmp_path)
    expected = load_tokenizer(tmp_path).encode(TEXTS[-1])
    file = tmp_path / "tokenizer.json"
    table = json.loads(file.read_text())
    table["model"]["dropout"] = 0.9
    table["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    file.write_text(json.dumps(table))
    assert load_tokenizer(tmp_path).encode(TEXTS[-1]) == expected


def test_names_in_older_files_and_broken_ones(tmp_path: Path) -> None:
    save_folder("unigram", tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"model_max_length": 1024}')
    with pytest.raises(DataError, match="eos_token is None"):
        load_tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>", "unk_token": "<unk>"}')
    assert load_tokenizer(tmp_path).unk_id == 2
    for text, message in (
        ("{", "not readable as JSON"),
        ("[]", "a list; expected an object"),
        ('{"eos_token": 3}', "eos_token is 3; expected the text of a token"),
        ('{"eos_token": "<nowhere>"}', "eos_token is '<nowhere>'; expected a token of the"),
    ):
        config.write_text(text)
        with pytest.raises(DataError, match=message):
            load_tokenizer(tmp_path)
