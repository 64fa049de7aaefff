"""Tokenizers under transformers' interface, with the ids of training."""

from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from data_pipeline.tokenizer import Tokenizer as OwnTokenizer
from pretrain.huggingface.sentencepiece_bpe import exact_tokenizer
from pretrain.huggingface.tokenization_resonance import ResonanceTokenizer

# "a  b" stays as it is, and prompts of a batch end together
_SETTINGS = {"clean_up_tokenization_spaces": False, "padding_side": "left"}


def huggingface_tokenizer(tokenizer: OwnTokenizer) -> PreTrainedTokenizerBase:
    """The transformers form of a tokenizer; `encode` puts BOS first, as in training documents.

    A text that spells a control token gets its id, as users of transformers expect; with
    `split_special_tokens=True` such text is text, as in training.
    """
    path = Path(tokenizer.path)
    if tokenizer.kind == "huggingface":
        return _wrap(_huggingface_tokenizer(path), tokenizer, [])
    if tokenizer.kind == "byte":
        return _wrap(_byte_tokenizer(tokenizer), tokenizer, [])
    model = path.read_bytes()
    pieces = pb2.ModelProto.FromString(model).pieces
    # the unknown piece comes first
    kinds = (pb2.ModelProto.SentencePiece.UNKNOWN, pb2.ModelProto.SentencePiece.CONTROL)
    controls = [piece.piece for kind in kinds for piece in pieces if piece.type == kind]
    fast = exact_tokenizer(model)
    if fast is not None:
        return _wrap(fast, tokenizer, controls)
    ids = {
        "bos_token": tokenizer.bos_id,
        "eos_token": tokenizer.eos_id,
        "pad_token": tokenizer.pad_id,
    }
    names = {key: pieces[id_].piece for key, id_ in ids.items()} | {"unk_token": controls[0]}
    more = [name for name in controls if name not in names.values()]
    return ResonanceTokenizer(str(path), extra_special_tokens=more, **names, **_SETTINGS)


def _huggingface_tokenizer(folder: Path) -> Tokenizer:
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # settings for batches of short texts, and merges at random
    fast.no_truncation()
    fast.no_padding()
    if isinstance(fast.model, models.BPE):
        fast.model.dropout = None
    return fast


def _byte_tokenizer(tokenizer: OwnTokenizer) -> Tokenizer:
    vocab = {character: byte for byte, character in bytes_to_unicode().items()}
    specials = {"<s>": tokenizer.bos_id, "</s>": tokenizer.eos_id, "<pad>": tokenizer.pad_id}
    fast = Tokenizer(models.BPE(vocab | specials, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    return fast


def _wrap(fast: Tokenizer, tokenizer: OwnTokenizer, controls: list[str]) -> PreTrainedTokenizerFast:
    bos, eos, pad = (
        fast.id_to_token(i) for i in (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    )
    unk = next(iter(controls), None)
    if tokenizer.unk_id is not None:
        unk = fast.id_to_token(tokenizer.unk_id)
    fast.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos_id)]
    )
    names = [name for name in (bos, eos, pad, unk, *controls) if name]
    fast.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        unk_token=unk,
        **_SETTINGS,
    )
