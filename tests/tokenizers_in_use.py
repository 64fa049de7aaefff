"""Tokenizers with the flags of those that people have, and texts that are difficult for them."""

import io
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

CONTROLS = ("<s>", "</s>", "<pad>", "<unk>", "<|endoftext|>", "[CLS]", "[SEP]", "[MASK]", "<0x41>")
ALL = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
# blanks, line and paragraph ends, controls, formats, noncharacters, and SentencePiece's blank
BLANKS = [c for c in ALL if unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cc", "Cf")] + [
    *"\u2581\u2800\u115f\u3164\uffa0\ufffc\ufffd\ufffe\uffff\u034f\u180b\ufe0f"
]
TEXTS = (
    "",
    " ",
    "   a",
    "a   ",
    "\u2581",
    " \u2581 \u2581\u2581a\u2581",
    "a\u2581b c",
    "one\u2028two\u2029three\x85four\x0b\x0cfive",
    "\ufeffmark \ufeff inside",
    "line\r\nline\rline\n\n\nline\n",
    "\ttab\t\ttabs\t",
    "nul\x00 and \x01\x1f\x7f",
    "e\u0301 \u0301e\u0323\u0302 \u1100\u1161\u11a8 \ufb01 \u2460 \uff21 \u212b",
    "👩‍👩‍👧‍👦 👍🏽 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇩🇪",
    "العربية \u200fעברית\u200e \u202eabc\u202c",
    " " * 777,
    "a" + " " * 63 + "b" + "\u00a0" * 9 + "\u3000" * 5,
    "aaaaaaa aa aaaaa abababababa baaab",
    "".join(BLANKS),
    "x".join(BLANKS),
    " ".join(BLANKS),
    "def f(x):\n    return x ** 2  # 3.14\n\n\n        deep\n",
    *(f"{name} in {name}{name} and\n{name}" for name in CONTROLS),
    "".join(CONTROLS),
)
ANY_TEXT = (
    st.text(max_size=80)
    | st.text(alphabet=[*BLANKS, *" ab"], max_size=60)
    | st.text(alphabet=" \u2581\n\tabeno1é", max_size=60)
    | st.lists(st.sampled_from([*CONTROLS, " ", "a", "\n", "en", "\u2581"]), max_size=12).map(
        "".join
    )
)
LINES = (
    "the quick brown fox jumps over the lazy dog and runs into the woods",
    "    if state is None:  # indented with blanks",
    "\treturn value[0] + 12345 * 67890",
    "Größe, Naïveté, Ελληνικά, русский язык, 日本語のテキスト, 한국어, العربية",
    "aaaa aaaaaa aaaaaaaaa abab ababab bababab baab aabb",
    "the theory of the thermal threshold, thus the thesis of that thing there",
    "double  blanks   and    more     blanks",
    "e\u0301 and é, ﬁ and fi, Å and Å",
)
# flags of `spm_train`: those that models in use were trained with
MODELS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True,
    },
    "plain bpe": {
        "model_type": "bpe", "normalization_rule_name": "identity", "add_dummy_prefix": False,
        "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True,
        "split_by_whitespace": False,
    },
    "gemma": {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "add_dummy_prefix": False, "remove_extra_whitespaces": False,
        "user_defined_symbols": ["<start_of_turn>", "\u2581\u2581", "\u2581\u2581\u2581", "\n\n"],
    },
    "default bpe": {"model_type": "bpe"},
    "t5": {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "albert": {
        "model_type": "unigram", "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1,
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"], "user_defined_symbols": ["(", ")", "£"],
        "normalization_rule_name": "nmt_nfkc_cf",
    },
    "unigram with symbols": {
        "model_type": "unigram", "user_defined_symbols": ["<sep>", "fox j", "</s"],
        "normalization_rule_name": "nfkc", "byte_fallback": True,
    },
    "suffix": {"model_type": "unigram", "treat_whitespace_as_suffix": True},
    "words": {"model_type": "word", "vocab_size": 40},
    "characters": {"model_type": "char", "vocab_size": 90},
}  # fmt: skip


@cache
def sentencepiece_model(name: str) -> bytes:
    """A model trained with the flags of MODELS; "raw blanks" and "unused" are edited ones."""
    if name in ("raw blanks", "unused"):
        return _edited(name)
    writer = io.BytesIO()
    flags = {"vocab_size": 420 if MODELS[name].get("byte_fallback") else 170} | MODELS[name]
    if flags["model_type"] == "bpe" and "normalization_rule_name" not in flags:
        flags["vocab_size"] = 150
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 4),
        model_writer=writer,
        character_coverage=0.99,
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
        **flags,
    )
    return writer.getvalue()


def _edited(name: str) -> bytes:
    from sentencepiece import sentencepiece_model_pb2 as pb2

    proto = pb2.ModelProto.FromString(sentencepiece_model("llama"))
    if name == "raw blanks":
        proto.normalizer_spec.escape_whitespaces = False
    else:
        learned = [piece for piece in proto.pieces if len(piece.piece) > 2 and piece.type == 1]
        for piece in learned[::3]:
            piece.type = pb2.ModelProto.SentencePiece.UNUSED
    return bytes(proto.SerializeToString())


SENTENCEPIECE = (*MODELS, "raw blanks", "unused")


def save_model(name: str, folder: Path) -> Path:
    """Write a SentencePiece model to a file."""
    path = folder / f"{name}.model".replace(" ", "-")
    path.write_bytes(sentencepiece_model(name))
    return path


def _byte_level() -> tokenizers.Tokenizer:
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(LINES, trainer)
    # after the control tokens, a token of text that is no piece of the model
    model.add_special_tokens(["<|im_start|>"])
    model.add_tokens(["    "])
    return model


def _unigram() -> tokenizers.Tokenizer:
    model = tokenizers.Tokenizer(models.Unigram())
    model.normalizer = normalizers.NFKC()
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    model.train_from_iterator(LINES, trainer)
    return model


def _words() -> tokenizers.Tokenizer:
    """Words, </s> among them: no token is marked as special."""
    names = ["[UNK]", "</s>", "the", "fox", "\n"]
    model = tokenizers.Tokenizer(models.WordLevel({n: 7 * i for i, n in enumerate(names)}, "[UNK]"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return model


HUGGING_FACE = {"byte level": _byte_level, "unigram": _unigram, "words with holes": _words}
ENDS = {"byte level": "<|endoftext|>", "unigram": "</s>", "words with holes": "</s>"}


def save_folder(name: str, folder: Path) -> Path:
    """Write one of HUGGING_FACE as a folder."""
    HUGGING_FACE[name]().save(str(folder / "tokenizer.json"))
    table = f'{{"eos_token": "{ENDS[name]}"}}'
    (folder / "tokenizer_config.json").write_text(table, encoding="utf-8")
    return folder
