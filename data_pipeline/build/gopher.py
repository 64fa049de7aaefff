"""Document filters of Gopher (Rae et al. 2021, arXiv 2112.11446, appendix A.1.1).

They are made for English web pages; source code and other languages fail several of them.
"""

from collections import Counter
from collections.abc import Sequence

from data_pipeline.cleaning_config import GopherConfig

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_BULLETS = ("-", "*", "•", "‣", "◦", "●")
_ELLIPSES = ("...", "…")

# largest allowed shares of repeated lines, paragraphs and n-grams: the paper's Table A1
_MAX_DUPLICATE_LINES = 0.30
_MAX_DUPLICATE_PARAGRAPHS = 0.30
_MAX_DUPLICATE_LINE_CHARACTERS = 0.20
_MAX_DUPLICATE_PARAGRAPH_CHARACTERS = 0.20
_MAX_TOP_NGRAM = {2: 0.20, 3: 0.18, 4: 0.16}
_MAX_DUPLICATE_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def reason_to_drop(text: str, config: GopherConfig) -> str | None:
    """The first rule that the text breaks; None if it breaks none."""
    if not (config.quality or config.repetition):
        return None
    words = text.split()
    reason = _quality(text, words, config) if config.quality else None
    if reason is None and config.repetition:
        reason = _repetition(text, words)
    return reason


def _quality(text: str, words: Sequence[str], config: GopherConfig) -> str | None:
    if not config.min_words <= len(words) <= config.max_words:
        return "gopher: number of words"
    num_words = max(len(words), 1)
    mean_length = sum(map(len, words)) / num_words
    if not config.min_mean_word_length <= mean_length <= config.max_mean_word_length:
        return "gopher: mean word length"
    ellipses = sum(text.count(mark) for mark in _ELLIPSES)
    if max(text.count("#"), ellipses) / num_words > config.max_symbol_ratio:
        return "gopher: symbols per word"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    num_lines = max(len(lines), 1)
    if sum(line.startswith(_BULLETS) for line in lines) / num_lines > config.max_bullet_lines:
        return "gopher: bullet lines"
    if sum(line.endswith(_ELLIPSES) for line in lines) / num_lines > config.max_ellipsis_lines:
        return "gopher: ellipsis lines"
    alphabetic = sum(any(map(str.isalpha, word)) for word in words)
    if alphabetic / num_words < config.min_alphabetic_words:
        return "gopher: alphabetic words"
    if len(STOP_WORDS.intersection(word.lower() for word in words)) < config.min_stop_words:
        return "gopher: stop words"
    return None


def _repetition(text: str, words: Sequence[str]) -> str | None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    for name, pieces, max_share, max_characters in (
        ("lines", lines, _MAX_DUPLICATE_LINES, _MAX_DUPLICATE_LINE_CHARACTERS),
        ("paragraphs", paragraphs, _MAX_DUPLICATE_PARAGRAPHS, _MAX_DUPLICATE_PARAGRAPH_CHARACTERS),
    ):
        share, characters = _duplicates(pieces, len(text))
        if share > max_share or characters > max_characters:
            return f"gopher: repeated {name}"
    num_characters = max(sum(map(len, words)), 1)
    for length, limit in _MAX_TOP_NGRAM.items():
        if _top_ngram(words, length) / num_characters > limit:
            return f"gopher: most frequent {length}-gram"
    for length, limit in _MAX_DUPLICATE_NGRAMS.items():
        if _duplicate_ngrams(words, length) / num_characters > limit:
            return f"gopher: repeated {length}-grams"
    return None


def _duplicates(pieces: Sequence[str], num_characters: int) -> tuple[float, float]:
    """Shares of the pieces that repeat an earlier piece: of all pieces, and of all characters."""
    earlier: set[str] = set()
    repeated = repeated_characters = 0
    for piece in pieces:
        if piece in earlier:
            repeated += 1
            repeated_characters += len(piece)
        earlier.add(piece)
    return repeated / max(len(pieces), 1), repeated_characters / max(num_characters, 1)


def _ngrams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(length)), strict=False))


def _top_ngram(words: Sequence[str], length: int) -> int:
    """Number of characters in the most frequent n-gram's occurrences; 0 if it occurs once."""
    counted = Counter(_ngrams(words, length))
    if not counted:
        return 0
    most = max(counted.values())
    if most < 2:
        return 0
    return most * max(sum(map(len, ngram)) for ngram, count in counted.items() if count == most)


def _duplicate_ngrams(words: Sequence[str], length: int) -> int:
    """Number of characters in repeated n-grams, overlaps counted once (the paper's rule)."""
    earlier: set[tuple[str, ...]] = set()
    covered_until = characters = 0
    for start, ngram in enumerate(_ngrams(words, length)):
        if ngram in earlier:
            first = max(start, covered_until)
            characters += sum(len(word) for word in words[first : start + length])
            covered_until = start + length
        earlier.add(ngram)
    return characters
