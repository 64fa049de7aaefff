"""Each cleaning step does what it says, can be switched off, and is counted."""

import pytest

from data_pipeline.build import gopher
from data_pipeline.build.cleaning import Counts, clean
from data_pipeline.build.duplicates.signatures import document_hash, in_valid, signature
from data_pipeline.cleaning_config import CleaningConfig, GopherConfig
from tests.unit.data_pipeline.build.sequential import SequentialFinder

OFF = CleaningConfig(unicode_form="none", control_characters=False)
PROSE = (
    "The state of the filter is carried to the next chunk and it decays with every token that "
    "follows. Every head has its own frequencies, and they are learned from data; a gate may "
    "close some of them. We compare this to a direct sum in double precision, which is slow but "
    "easy to trust. What remains is the error of rounding, far below anything that matters here."
)


def cleaned(text: str, config: CleaningConfig) -> tuple[str | None, Counts]:
    """Clean one text and return its counts."""
    counts = Counts()
    return clean(text, "here", config, counts), counts


def test_unicode_normalisation() -> None:
    text = "cafe\u0301 \ufb01"
    assert cleaned(text, OFF)[0] == text
    found, counts = cleaned(text, OFF.model_copy(update={"unicode_form": "NFC"}))
    assert found == "café \ufb01"
    assert counts.changed == {"unicode NFC": 1}
    assert cleaned(text, OFF.model_copy(update={"unicode_form": "NFKC"}))[0] == "café fi"


def test_control_characters() -> None:
    text = "a\x00b\tc\r\nd\x1be\x7f\x85"
    assert cleaned(text, OFF)[0] == text
    found, counts = cleaned(text, OFF.model_copy(update={"control_characters": True}))
    assert found == "ab\tc\r\nde\x85"
    assert counts.changed == {"control characters": 1}


@pytest.mark.parametrize(
    ("text", "settings", "reason"),
    [
        ("", {}, "empty"),
        (" \n\t", {}, "empty"),
        ("abc", {"min_characters": 4}, "too short"),
        ("abc", {"max_characters": 2}, "too long"),
        ("abc", {"min_characters": 3, "max_characters": 3}, None),
    ],
)
def test_length(text: str, settings: dict[str, int], reason: str | None) -> None:
    found, counts = cleaned(text, OFF.model_copy(update=settings))
    assert counts.dropped == ({reason: 1} if reason else {})
    assert found == (None if reason else text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        ("too few words to be of use and that is that", "number of words"),
        (" ".join(["a"] * 60), "mean word length"),
        (" ".join(["antidisestablishment"] * 60), "mean word length"),
        (PROSE.replace(" ", " # ", 20), "symbols per word"),
        ("\n".join(f"- {word} thing" for word in PROSE.split()), "bullet lines"),
        ("\n".join(f"{PROSE[:200]} {word}..." for word in PROSE.split()), "ellipsis lines"),
        (PROSE + " 1234" * 40, "alphabetic words"),
        ("cat jumps over lazy dogs quickly " * 12, "stop words"),
    ],
)
def test_gopher_quality(text: str, reason: str | None) -> None:
    expected = f"gopher: {reason}" if reason else None
    assert gopher.reason_to_drop(text, GopherConfig(quality=True)) == expected
    assert gopher.reason_to_drop(text, GopherConfig()) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        ("\n".join([PROSE, *["again and again"] * 20]), "repeated lines"),
        ("\n\n".join([PROSE[:120], *[f"{PROSE[120:200]}\n{n}" for n in "abc"] * 3]),
         "repeated paragraphs"),
        (PROSE + " big cat" * 20, "most frequent 2-gram"),
        (PROSE + " " + PROSE[:120], "repeated 5-grams"),
    ],
)  # fmt: skip
def test_gopher_repetition(text: str, reason: str | None) -> None:
    found = gopher.reason_to_drop(text, GopherConfig(repetition=True))
    if reason == "repeated paragraphs":
        assert found in ("gopher: repeated paragraphs", "gopher: repeated lines")
    else:
        assert found == (f"gopher: {reason}" if reason else None)
    assert gopher.reason_to_drop(text, GopherConfig()) is None


def test_counts_keep_a_few_examples() -> None:
    counts = Counts()
    config = OFF.model_copy(update={"min_characters": 10, "num_examples": 2})
    for number in range(5):
        clean(f"short {number}", f"file {number}", config, counts)
    other = Counts()
    clean("tiny", "file 9", config, other)
    counts.merge(other, 2)
    assert counts.dropped == {"too short": 6}
    assert counts.examples == {"too short": ["file 0: short 0", "file 1: short 1"]}


def test_exact_duplicates() -> None:
    finder = SequentialFinder(CleaningConfig())
    reasons = [finder.reason_to_drop(document_hash(text), None) for text in ("a", "b", "a")]
    assert reasons == [None, None, "exact duplicate"]
    kept = SequentialFinder(CleaningConfig(exact_duplicates=False))
    assert [kept.reason_to_drop(document_hash("a"), None) for _ in range(2)] == [None, None]


def test_near_duplicates() -> None:
    config = CleaningConfig(near_duplicates=True)
    finder = SequentialFinder(config)
    words = PROSE.split()
    texts = [
        PROSE,
        # Case, punctuation and one word of seventy: still the same text.
        PROSE.upper().replace(".", " !"),
        " ".join([*words[:-1], "there"]),
        # A third of it is something else.
        " ".join(words[: len(words) // 3 * 2] + [f"word{n}" for n in range(len(words) // 3)]),
        " ".join(reversed(words)),
        "short",
        "other",
    ]
    reasons = [
        finder.reason_to_drop(document_hash(text), signature(text, config)) for text in texts
    ]
    assert reasons == [None, "near-duplicate", "near-duplicate", None, None, None, None]


def test_candidates_below_the_threshold_are_kept() -> None:
    # Similarity 0.4: the index alone would propose about a fifth of the pairs.
    config = CleaningConfig(near_duplicates=True, near_threshold=0.5, near_ngram=1)
    finder = SequentialFinder(config)
    dropped = 0
    for pair in range(60):
        words = [f"p{pair}w{number}" for number in range(100)]
        for text in (" ".join(words[:70]), " ".join(words[30:])):
            reason = finder.reason_to_drop(document_hash(text), signature(text, config))
            dropped += reason is not None
    assert dropped <= 3


def test_signatures_estimate_similarity() -> None:
    config = CleaningConfig(near_permutations=512, near_ngram=1)
    words = [f"w{number}" for number in range(30_000)]
    first = signature(" ".join(words[:20_000]), config)
    second = signature(" ".join(words[10_000:]), config)
    # Jaccard similarity 1/3; the estimate is binomial with 512 draws, five deviations.
    assert abs(float((first == second).mean()) - 1 / 3) < 5 * (2 / 9 / 512) ** 0.5


def test_held_out_documents_are_chosen_by_their_hash() -> None:
    hashes = [document_hash(f"document {number}") for number in range(20_000)]
    share = sum(in_valid(hash_, 0.1) for hash_ in hashes) / len(hashes)
    assert abs(share - 0.1) < 5 * (0.09 / 20_000) ** 0.5
    assert not any(in_valid(hash_, 0.0) for hash_ in hashes)
    # A larger share holds out the same documents and more.
    assert all(in_valid(hash_, 0.2) for hash_ in hashes if in_valid(hash_, 0.1))
