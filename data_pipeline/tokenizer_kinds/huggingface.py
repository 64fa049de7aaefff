"""Hugging Face tokenizers: folders with tokenizer.json."""

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.input_files import read_json

DEFINITION = "tokenizer.json"
# where transformers writes the names of control tokens, newest first
NAMES = ("tokenizer_config.json", "special_tokens_map.json")
_KEYS = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")


class HuggingFaceTokenizer:
    """Tokenizer of a folder with tokenizer.json, as `save_pretrained` writes it.

    A text that spells a control token is text: only the program puts control tokens anywhere.
    """

    kind = "huggingface"

    def __init__(self, path: Path):
        import tokenizers

        file = path / DEFINITION
        definition = file.read_bytes()
        try:
            self._model: Any = tokenizers.Tokenizer.from_buffer(definition)
            table = json.loads(definition)
        except ValueError as error:
            raise DataError(f"{file}: not a tokenizer definition ({error})") from error
        self.path = str(path)
        vocab = self._model.get_vocab(with_added_tokens=True)
        # ids may have holes
        self.vocab_size = max(vocab.values(), default=-1) + 1
        names = _control_names(path)
        self.eos_id = self._special(names.get("eos_token"), file, "eos_token")
        self.bos_id = self._special(names.get("bos_token"), file, "", self.eos_id)
        self.pad_id = self._special(names.get("pad_token"), file, "", self.eos_id)
        names.setdefault("unk_token", _unknown(table["model"]))
        self.unk_id = vocab.get(names["unk_token"])
        specials = f"{self.bos_id} {self.eos_id} {self.pad_id}"
        self.fingerprint = hashlib.sha256(definition + specials.encode()).hexdigest()
        added = {token["content"] for token in table.get("added_tokens", []) if token["special"]}
        controls = added.union(names.values()) & vocab.keys()
        self._control_ids = {vocab[name] for name in controls}
        texts = {id_: name for name, id_ in vocab.items() if name not in controls}
        for id_ in self._control_ids & texts.keys():
            # tokenizers numbers added tokens by the size of the vocabulary, not by the file
            raise DataError(
                f"{file}: {self._model.id_to_token(id_)!r} is a control token and has the id {id_} "
                f"of {texts[id_]!r}; expected ids without holes in model.vocab"
            )
        self._encoder = tokenizers.Tokenizer.from_str(_without_controls(table, controls))

    def _special(self, name: str | None, file: Path, key: str, fallback: int = -1) -> int:
        id_ = None if name is None else self._model.token_to_id(name)
        if id_ is None and fallback < 0:
            raise DataError(f"{file}: {key} is {name!r}; expected a token of the vocabulary")
        return fallback if id_ is None else int(id_)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS and EOS."""
        try:
            return list(self._encoder.encode(text, add_special_tokens=False).ids)
        except Exception as error:
            # such as a vocabulary that lacks its own unknown token
            raise DataError(f"{self.path}: its tokenizer.json cannot encode ({error})") from error

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, without special tokens."""
        return str(self._model.decode([id_ for id_ in ids if id_ not in self._control_ids]))


def _control_names(path: Path) -> dict[str, str]:
    """Names of the control tokens of a folder, by key.

    Raises:
        DataError: A file is broken, or a name is no string.
    """
    names: dict[str, str] = {}
    for file in (path / name for name in NAMES):
        table = read_json(file) if file.is_file() else {}
        if not isinstance(table, dict):
            raise DataError(f"{file}: a {type(table).__name__}; expected an object")
        for key in (f"{key}_token" for key in _KEYS):
            value = table.get(key)
            # older files write a special token as an object
            name = value.get("content") if isinstance(value, dict) else value
            if not isinstance(name, str | None):
                raise DataError(f"{file}: {key} is {value!r}; expected the text of a token")
            if name:
                names.setdefault(key, name)
    return names


def _unknown(model: dict[str, Any]) -> str:
    """The token that a model gives unknown text; empty if it has none."""
    if model.get("unk_id") is not None:
        return str(model["vocab"][model["unk_id"]][0])
    return model.get("unk_token") or ""


def _without_controls(table: dict[str, Any], controls: set[str]) -> str:
    """A definition with the same ids, in which no text can spell a control token.

    Control tokens may also be pieces of the model itself (in Unigram and WordLevel models), so
    they get names that cannot be guessed; removing them would move the ids of later tokens.
    """
    hidden = {name: f"\uffff{secrets.token_hex(32)}" for name in controls}
    model = table["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {hidden.get(name, name): id_ for name, id_ in model["vocab"].items()}
    else:
        model["vocab"] = [[hidden.get(name, name), score] for name, score in model["vocab"]]
    if model.get("unk_token") in hidden:
        model["unk_token"] = hidden[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [
            pair for pair in map(_pair, model["merges"]) if not _uses(pair, controls)
        ]
    # merges at random, settings for batches of short texts, and BOS and EOS would change the ids
    model["dropout"] = None
    added = table.get("added_tokens", [])
    tokens = [
        token | {"content": hidden.get(token["content"], token["content"])} for token in added
    ]
    changes = {"added_tokens": tokens, "truncation": None, "padding": None, "post_processor": None}
    return json.dumps(table | changes)


def _pair(merge: str | list[str]) -> list[str]:
    # older files write a merge as a string
    return merge.split(" ") if isinstance(merge, str) else merge


def _uses(pair: list[str], controls: set[str]) -> bool:
    return "".join(pair) in controls or not controls.isdisjoint(pair)
