"""Prompts, turns of a chat and texts to evaluate are read by the rules of `data build`."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_pipeline.build.readers import read_documents
from data_pipeline.errors import DataError
from data_pipeline.tokenizer import continuation, load_tokenizer
from pretrain.commands import ChatCommand
from pretrain.errors import RunError
from pretrain.evaluation.text_loss import WHOLE_FILE
from pretrain.generation import chat
from pretrain.generation.generate import read_prompts
from tests.tokenizers_in_use import SENTENCEPIECE, save_model

ODD = "a\u2028b\x85c\x0b\x0cd\re \u3000"


def test_prompts_are_lines_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(f"\ufeff{ODD}\n\n  \n two \r\n\u2028\n\ufeffthree".encode())
    assert read_prompts(file) == [ODD, " two ", "\u2028", "\ufeffthree"]


def test_prompts_of_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'\ufeff{{"prompt": "{ODD[:3]}\\r\\n"}}\r\n\n{{"prompt": ""}}\n')
    assert read_prompts(file) == [f"{ODD[:3]}\r\n", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b'{"prompt": null}', "line 1: 'prompt' is NoneType; the keys are"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": 3}', "line 2: 'prompt' is int"),
        ("p.jsonl", b'{"text": "a"}', "expected an object with a string 'prompt'"),
        ("p.jsonl", b"[1]", "line 1: a list"),
        ("p.jsonl", b'{"prompt": "\\ud800"}', "line 1: surrogates not allowed at 0"),
        ("p.jsonl", b'{"prompt"', "line 1: broken JSON"),
        ("p.txt", b"abc\nd\xff", "p.txt: byte 0xFF at offset 5 is not UTF-8"),
        ("p.txt", b"\n \r\n", "expected a prompt per line, found none"),
    ],
)
def test_wrong_prompts_are_explained(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, RunError)) as caught:
        read_prompts(tmp_path / name)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_texts_to_evaluate_are_whole_files(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(f"\ufeffone\r\ntwo\r{ODD}".encode())
    (document,) = read_documents(file, WHOLE_FILE)
    assert document.text == f"one\r\ntwo\r{ODD}"
    file.write_bytes(b"")
    assert [document.text for document in read_documents(file, WHOLE_FILE)] == [""]


def test_turns_of_a_chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns: list[str] = []

    def conversation(*_: object) -> SimpleNamespace:
        def say(text: str, _: Callable[[str], object]) -> None:
            turns.append(text)

        return SimpleNamespace(say=say, reset=lambda: turns.append("RESET"))

    monkeypatch.setattr(chat, "Conversation", conversation)
    monkeypatch.setattr(chat, "Writer", lambda *_: None)
    monkeypatch.setattr(chat, "load_pretrained", lambda _: None)
    typed = f"\ufeff {ODD}\r\n\n/reset \nbad ".encode() + b"\xff\nlast\n/quit\nnever"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed)))
    with pytest.raises(RunError, match="1 lines of the input were not UTF-8"):
        chat.chat(ChatCommand(checkpoint=Path("run")))
    assert turns == [f" {ODD}", "RESET", "last"]
    offset = typed.index(b"\xff")
    assert f"input, line 4: byte 0xFF at offset {offset} is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["llama", "t5", "plain bpe", "gemma"])
def test_a_continuation_keeps_its_first_blank(name: str, tmp_path: Path) -> None:
    assert name in SENTENCEPIECE
    tokenizer = load_tokenizer(save_model(name, tmp_path))
    ids = tokenizer.encode("the quick brown fox")
    whole = tokenizer.decode(ids)
    for cut in range(1, len(ids)):
        before = tokenizer.decode(ids[:cut])
        assert before + continuation(tokenizer, ids[cut - 1], ids[cut:]) == whole
    assert continuation(tokenizer, tokenizer.bos_id, ids) == whole
