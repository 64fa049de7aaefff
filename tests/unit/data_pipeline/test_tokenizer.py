"""Tokenizers: text comes back as it was, and mistakes are explained."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.build.train_tokenizer import train_tokenizer
from data_pipeline.config import TokenizerTrainConfig
from data_pipeline.errors import DataError
from data_pipeline.tokenizer import load_tokenizer, tokenizer_files

ANY_TEXT = st.text(max_size=200)
# What a tokenizer is most likely to change: spaces in runs and at both ends, and line ends.
SPACED_TEXT = st.text(alphabet=" \t\n\r\u00a0\u2581\u3000ab1é<s></s>\x00", max_size=60)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=ANY_TEXT | SPACED_TEXT)
@pytest.mark.parametrize("kind", ["bpe", "unigram", "byte"])
def test_decoding_gives_the_text_back(
    train_model: Callable[..., Path], kind: str, text: str
) -> None:
    tokenizer = load_tokenizer("byte" if kind == "byte" else train_model(kind))
    ids = tokenizer.encode(text)
    # SentencePiece writes a blank as U+2581, and cannot tell the two apart
    assert tokenizer.decode(ids) == (text if kind == "byte" else text.replace("\u2581", " "))
    assert all(0 <= id_ < tokenizer.vocab_size for id_ in ids)
    special = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
    assert not special.intersection(ids)


def test_ids_of_special_tokens_are_fixed(train_model: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(train_model("bpe"))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 3)
    assert tokenizer.vocab_size == 600
    assert tokenizer.kind == "sentencepiece"


def test_fingerprints_tell_models_apart(train_model: Callable[..., Path]) -> None:
    names = [train_model("bpe"), train_model("unigram"), "byte"]
    fingerprints = [load_tokenizer(name).fingerprint for name in names]
    assert len(set(fingerprints)) == 3
    assert load_tokenizer(names[0]).fingerprint == fingerprints[0]


def test_training_on_a_sample_is_reproducible(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"line {n} of {n**9:x} words" for n in range(30_000)))
    models = []
    for name, max_sentences in (("a", 101), ("b", 101), ("all", 100_000)):
        config = TokenizerTrainConfig(
            inputs=(str(text),),
            output=str(tmp_path / name),
            vocab_size=600,
            max_sentences=max_sentences,
            num_threads=1,
        )
        models.append(train_tokenizer(config).read_bytes())
    assert models[0] == models[1]
    assert models[0] != models[2]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_vocabulary_larger_than_the_text_supports(tmp_path: Path, model_type: str) -> None:
    text = tmp_path / "small.txt"
    text.write_text("only a few words\n")
    config = TokenizerTrainConfig.model_validate(
        {"inputs": (str(text),), "output": str(tmp_path / "m"), "model_type": model_type}
    )
    with pytest.raises(DataError, match=r"vocab_size: 4096 is more than .* expected at most \d+"):
        train_tokenizer(config)
    assert not (tmp_path / "m").exists()


def test_no_text_and_no_file(tmp_path: Path) -> None:
    output = str(tmp_path / "m")
    missing = str(tmp_path / "missing.txt")
    with pytest.raises(DataError, match=r"missing\.txt: no such file"):
        train_tokenizer(TokenizerTrainConfig(inputs=(missing,), output=output))
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(DataError, match=r"empty\.txt: the file is empty"):
        train_tokenizer(TokenizerTrainConfig(inputs=(str(empty),), output=output))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "empty.txt").touch()
    with pytest.raises(DataError, match="no text found"):
        train_tokenizer(TokenizerTrainConfig(inputs=(str(tmp_path / "folder"),), output=output))


def test_hugging_face_folder(tmp_path: Path) -> None:
    model = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=False))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(["some text to learn from"], trainer)
    # Settings for short texts that must not cut documents.
    model.enable_truncation(4)
    model.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="eos_token is None"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|end|>"}}')
    tokenizer = load_tokenizer(tmp_path)
    text = "  some  text\n\tand a letter é that it never saw"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.bos_id == tokenizer.eos_id == tokenizer.pad_id == 0
    assert tokenizer.kind == "huggingface"


def test_what_is_not_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such tokenizer; expected 'byte'"):
        load_tokenizer(tmp_path / "nothing.model")
    with pytest.raises(DataError, match=r"no tokenizer\.json; expected one, or tokenizer\.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "broken.model").write_bytes(b"not a model")
    with pytest.raises(DataError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path / "broken.model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="not a tokenizer definition"):
        load_tokenizer(tmp_path)


def test_a_folder_with_a_model_of_sentencepiece(
    train_model: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train_model("bpe").read_bytes())
    (tmp_path / "weights.safetensors").touch()
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.fingerprint == load_tokenizer(train_model("bpe")).fingerprint
    assert tokenizer.path == str(tmp_path / "tokenizer.model")


def test_only_files_of_the_tokenizer_are_named(tmp_path: Path) -> None:
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    for name in (*names, "model.safetensors", "vocab.json", "notes.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in tokenizer_files(tmp_path)] == list(names)
