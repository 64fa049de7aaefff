"""Conversion of tokenizers to a `tokenizer.json`: the same ids without SentencePiece."""

from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from data_pipeline.tokenizer import Tokenizer as OwnTokenizer

SPACE_MARK = "\u2581"


def huggingface_tokenizer(tokenizer: OwnTokenizer) -> PreTrainedTokenizerFast:
    """The transformers form of a tokenizer; `encode` puts BOS first, as in training documents."""
    if tokenizer.kind == "huggingface":
        fast = Tokenizer.from_file(str(Path(tokenizer.path) / "tokenizer.json"))
        return _wrap(fast, tokenizer)
    if tokenizer.kind == "byte":
        return _byte_tokenizer(tokenizer)
    return _sentencepiece_tokenizer(tokenizer)


def _byte_tokenizer(tokenizer: OwnTokenizer) -> PreTrainedTokenizerFast:
    vocab = {character: byte for byte, character in bytes_to_unicode().items()}
    specials = {"<s>": tokenizer.bos_id, "</s>": tokenizer.eos_id, "<pad>": tokenizer.pad_id}
    fast = Tokenizer(models.BPE(vocab | specials, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    return _wrap(fast, tokenizer)


def _sentencepiece_tokenizer(tokenizer: OwnTokenizer) -> PreTrainedTokenizerFast:
    model: Any = sentencepiece.SentencePieceProcessor(model_file=tokenizer.path)
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    scores = [model.get_score(i) for i in range(model.get_piece_size())]
    unk = model.unk_id()
    has_bytes = any(model.is_byte(i) for i in range(len(pieces)))
    core: models.Model
    if _is_bpe(model, scores):
        learned = [
            i
            for i in range(len(pieces))
            if not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i))
        ]
        core = models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            _merges([pieces[i] for i in learned], [scores[i] for i in learned]),
            unk_token=pieces[unk],
            fuse_unk=True,
            byte_fallback=has_bytes,
        )
    else:
        core = models.Unigram(
            list(zip(pieces, scores, strict=True)), unk_id=unk, byte_fallback=has_bytes
        )
    fast = Tokenizer(core)
    fast.normalizer = normalizers.Replace(" ", SPACE_MARK)
    fast.decoder = decoders.Sequence(
        [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _wrap(fast, tokenizer, unk=pieces[unk])


def _is_bpe(model: Any, scores: list[float]) -> bool:
    """Whether a SentencePiece model is BPE.

    BPE scores its pieces 0, -1, -2, ...; a unigram model uses log-probabilities.
    """
    learned = [
        score
        for i, score in enumerate(scores)
        if not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i))
    ]
    return learned == [-float(rank) for rank in range(len(learned))]


def _merges(pieces: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """All pairs of pieces that join into a third piece, the best-scored first.

    SentencePiece joins any neighbours whose union is a piece, so all splits of a piece count.
    """
    score = dict(zip(pieces, scores, strict=True))
    return [
        (piece[:cut], piece[cut:])
        for piece in sorted(pieces, key=score.__getitem__, reverse=True)
        for cut in range(1, len(piece))
        if piece[:cut] in score and piece[cut:] in score
    ]


def _wrap(
    fast: Tokenizer, tokenizer: OwnTokenizer, unk: str | None = None
) -> PreTrainedTokenizerFast:
    bos, eos, pad = (
        fast.id_to_token(i) for i in (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    )
    fast.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos_id)]
    )
    names = [name for name in (bos, eos, pad, unk) if name]
    fast.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        unk_token=unk,
        clean_up_tokenization_spaces=False,
        # "</s>" in a text is ordinary text, as in training
        split_special_tokens=True,
        padding_side="left",
    )
