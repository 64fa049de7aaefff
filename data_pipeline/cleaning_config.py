"""Configuration of cleaning (imports no torch)."""

from typing import Literal

from pydantic import Field

from data_pipeline.config_table import Table


class GopherConfig(Table):
    """The quality and repetition rules of Rae et al. 2021 (Gopher), appendix A.1.1."""

    quality: bool = Field(
        False, description="Whether to apply the length, symbol and stop-word rules."
    )
    repetition: bool = Field(False, description="Whether to apply the repetition rules.")
    min_words: int = Field(50, ge=0, description="Minimum number of words in a document.")
    max_words: int = Field(100_000, ge=1, description="Maximum number of words in a document.")
    min_mean_word_length: float = Field(3.0, description="Minimum mean length of words.")
    max_mean_word_length: float = Field(10.0, description="Maximum mean length of words.")
    max_symbol_ratio: float = Field(0.1, description="Maximum number of '#' or '...' per word.")
    max_bullet_lines: float = Field(
        0.9, description="Maximum share of lines that start with a bullet."
    )
    max_ellipsis_lines: float = Field(0.3, description="Maximum share of lines that end in '...'.")
    min_alphabetic_words: float = Field(0.8, description="Minimum share of words with a letter.")
    min_stop_words: int = Field(
        2,
        ge=0,
        description="Minimum number of different stop words: the, be, to, of, and, that, have, "
        "with.",
    )


class CleaningConfig(Table):
    """Cleaning steps, in the order in which they run."""

    unicode_form: Literal["NFC", "NFKC", "none"] = Field(
        "NFC", description="Unicode normal form; NFKC also folds compatibility characters."
    )
    control_characters: bool = Field(
        True,
        description="Whether to remove control characters other than tab, newline and carriage "
        "return.",
    )
    min_characters: int = Field(1, ge=1, description="Minimum number of characters in a document.")
    max_characters: int = Field(
        0, ge=0, description="Maximum number of characters in a document; 0 for no limit."
    )
    gopher: GopherConfig = Field(GopherConfig(), description="Gopher rules.")
    exact_duplicates: bool = Field(
        True, description="Whether to drop exact copies of earlier documents."
    )
    near_duplicates: bool = Field(
        False, description="Whether to drop near-duplicates (MinHash-LSH)."
    )
    near_threshold: float = Field(
        0.8,
        gt=0,
        lt=1,
        description="Jaccard similarity of word n-grams that makes a document a near-duplicate.",
    )
    near_ngram: int = Field(5, ge=1, description="Words per n-gram for near-duplicates.")
    near_permutations: int = Field(128, ge=16, description="Length of a MinHash signature.")
    num_examples: int = Field(3, ge=0, description="Examples per reason in the report.")
