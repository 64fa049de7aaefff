"""SentencePiece models of every kind: their own ids, also of long texts that are cut."""

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.tokenizer import load_tokenizer
from data_pipeline.tokenizer_kinds import sentencepiece_model as module
from data_pipeline.tokenizer_kinds.sentencepiece_model import BpeCuts, SentencePieceTokenizer
from tests.tokenizers_in_use import (
    ANY_TEXT,
    BLANKS,
    LINES,
    SENTENCEPIECE,
    TEXTS,
    save_model,
    sentencepiece_model,
)

ANY_KIND = pytest.mark.parametrize("name", SENTENCEPIECE)
FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def _pair(
    name: str, folder: Path
) -> tuple[SentencePieceTokenizer, sentencepiece.SentencePieceProcessor]:
    path = save_model(name, folder)
    return SentencePieceTokenizer(path), sentencepiece.SentencePieceProcessor(model_file=str(path))


@ANY_KIND
def test_ids_are_those_of_sentencepiece(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, reference = _pair(name, folder)
    texts = [*TEXTS, *(f"a{c}{c} {c}b" for c in BLANKS), "".join(TEXTS), "".join(LINES)]
    expected = [reference.encode(text) for text in texts]
    controls = {i for i in range(tokenizer.vocab_size) if reference.is_control(i)}
    assert controls.isdisjoint(id_ for ids in expected for id_ in ids)
    for limit in (1 << 18, 1, 7, 60):
        monkeypatch.setattr(module, "_PIECE_CHARACTERS", limit)
        assert [tokenizer.encode(text) for text in texts] == expected


@ANY_KIND
@FIXTURES
@given(text=ANY_TEXT, limit=st.integers(1, 30))
def test_any_text_may_be_cut(name: str, folder: Path, text: str, limit: int) -> None:
    tokenizer, reference = _pair(name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE_CHARACTERS", limit)
        assert tokenizer.encode(text) == reference.encode(text)


def test_long_texts_are_cut_at_the_limit() -> None:
    cuts = BpeCuts.of(sentencepiece_model("llama"))
    assert cuts is not None
    text = "\u2581".join(LINES * 9)
    pieces = list(cuts.pieces(text, 100))
    assert "".join(pieces) == text
    assert all(50 < len(piece) <= 100 for piece in pieces[:-1])
    # a run of letters that pieces join cannot be cut
    assert list(cuts.pieces("a" * 500, 100)) == ["a" * 500]


def test_a_long_document_gets_no_blank_at_its_cuts(folder: Path) -> None:
    tokenizer, reference = _pair("llama", folder)
    text = "\n".join(LINES * 700)
    assert len(text) > 1 << 18
    assert tokenizer.encode(text) == reference.encode(text)


def test_control_ids_of_models_without_them(folder: Path) -> None:
    for name, ids in (("t5", (1, 1, 0)), ("albert", (2, 3, 0)), ("llama", (1, 2, 2))):
        tokenizer = load_tokenizer(save_model(name, folder))
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == ids
    no_end = folder / "no-end.model"
    no_end.write_bytes(sentencepiece_model("albert").replace(b"[SEP]", b"[END]"))
    with pytest.raises(DataError, match="no control piece that ends documents"):
        load_tokenizer(no_end)
