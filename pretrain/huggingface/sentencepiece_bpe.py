"""The `tokenizer.json` form of a SentencePiece model, where there is one with the same ids."""

from typing import Any

from sentencepiece import sentencepiece_model_pb2 as pb2
from tokenizers import Tokenizer, decoders, models, normalizers

SPACE_MARK = "\u2581"
_PIECE = pb2.ModelProto.SentencePiece


def exact_tokenizer(serialized: bytes) -> Tokenizer | None:
    """The same BPE without SentencePiece; None for a model that has no exact equivalent.

    Those are: unigram models (SentencePiece adds scores in float32, tokenizers in float64),
    normalisers (tokenizers applies their table to other units), user-defined symbols (tokenizers
    encodes the text between them separately), unused pieces, and unusual treatments of blanks.

    Args:
        serialized: A SentencePiece model.
    """
    proto = pb2.ModelProto.FromString(serialized)
    flags = proto.normalizer_spec
    controls = [p.piece for p in proto.pieces if p.type in (_PIECE.CONTROL, _PIECE.UNKNOWN)]
    is_simple = (
        proto.trainer_spec.model_type == pb2.TrainerSpec.BPE
        and not proto.trainer_spec.treat_whitespace_as_suffix
        and not flags.precompiled_charsmap
        and not flags.remove_extra_whitespaces
        and flags.escape_whitespaces
        and not proto.denormalizer_spec.precompiled_charsmap
        and not any(p.type in (_PIECE.USER_DEFINED, _PIECE.UNUSED) for p in proto.pieces)
        # a single character would be found by its name
        and all(len(name) > 1 for name in controls)
    )
    learned = {p.piece: p.score for p in proto.pieces if p.type == _PIECE.NORMAL}
    merges = exact_merges(learned) if is_simple else None
    if merges is None:
        return None
    core = models.BPE(
        {piece.piece: id_ for id_, piece in enumerate(proto.pieces)},
        merges,
        unk_token=next(p.piece for p in proto.pieces if p.type == _PIECE.UNKNOWN),
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )
    fast = Tokenizer(core)
    blanks: list[Any] = [normalizers.Replace(" ", SPACE_MARK)]
    texts: list[Any] = [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if flags.add_dummy_prefix:
        blanks.insert(0, normalizers.Prepend(SPACE_MARK))
        texts.append(decoders.Strip(" ", 1, 0))
    fast.normalizer = normalizers.Sequence(blanks)
    fast.decoder = decoders.Sequence(texts)
    return fast


def exact_merges(scores: dict[str, float]) -> list[tuple[str, str]] | None:
    """The merges that lead to the ids of SentencePiece's BPE; None if there is no such list.

    SentencePiece joins any neighbours whose union is a piece, the best piece first, of equals the
    leftmost. Before a piece is joined, all better pieces are; so the characters of a piece always
    reach the same two halves, in whatever text: those of the piece encoded by itself. With one
    pair per piece, and no two pieces of one score, both orders of merging are the same.

    Args:
        scores: Scores of the learned pieces.
    """
    joined = [piece for piece in scores if len(piece) > 1]
    if len({scores[piece] for piece in joined}) < len(joined):
        return None
    merges = []
    for piece in sorted(joined, key=scores.__getitem__, reverse=True):
        halves = _halves(piece, scores)
        if halves is not None:
            merges.append(halves)
    if any(half not in scores for pair in merges for half in pair):
        return None
    return merges


def _halves(piece: str, scores: dict[str, float]) -> tuple[str, str] | None:
    """The last two parts of a piece that is encoded by itself; None if it is never reached."""
    parts = list(piece)
    while len(parts) > 2:
        pairs = (parts[at] + parts[at + 1] for at in range(len(parts) - 1))
        ranked = [(scores[pair], -at) for at, pair in enumerate(pairs) if pair in scores]
        if not ranked:
            return None
        at = -max(ranked)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None
