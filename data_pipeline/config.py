"""Configuration of the data pipeline: tokenizer training, building, inspection and streaming.

Imports neither torch nor anything that reads data: a login node validates run files with it.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# A document longer than this (50 MB texts exist) is cut when it comes from a plain text file.
MAX_DOCUMENT_BYTES = 64 * 2**20


class _Table(BaseModel):
    """A table of a run file: frozen, unknown keys and numbers that are not finite refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StorageConfig(_Table):
    """How files on disks, HTTP servers and object stores are reached."""

    attempts: int = Field(5, ge=1, description="Attempts per request before giving up.")
    first_delay_s: float = Field(
        0.5, ge=0, description="Wait before the second attempt; doubled for each further one."
    )
    timeout_s: float = Field(60.0, gt=0, description="Time limit of one request.")
    num_readers: int = Field(8, ge=1, description="Shards that a process downloads at a time.")
    endpoint_url: str = Field("", description="S3 endpoint, when it is not Amazon's.")
    anonymous: bool = Field(False, description="Read public S3 buckets without credentials.")
    allow_pipe: bool = Field(
        False, description="Allow pipe:COMMAND as a URL. It runs COMMAND in a shell."
    )
    allow_unsafe_members: bool = Field(
        False, description="Allow tar members with absolute paths or '..' in them."
    )


class ReadConfig(_Table):
    """How documents are found inside source files."""

    format: Literal["auto", "text", "jsonl", "parquet"] = Field(
        "auto", description="Format of the sources; auto goes by the suffix, text if unknown."
    )
    document: Literal["file", "line", "paragraph"] = Field(
        "file", description="In plain text, what a document is; paragraphs end at empty lines."
    )
    text_key: str = Field("text", description="JSONL key or Parquet column with the text.")
    language_key: str = Field(
        "language", description="Optional JSONL key or Parquet column with the language."
    )
    language: str = Field("", description="Language of documents that do not state theirs.")
    max_document_bytes: int = Field(
        MAX_DOCUMENT_BYTES,
        ge=1024,
        description="Plain text longer than this is cut at a line end into several documents.",
    )
    on_bad_input: Literal["fail", "skip"] = Field(
        "fail",
        description="Broken JSON, missing text, invalid UTF-8, truncated files: stop, or skip and "
        "count.",
    )


class GopherConfig(_Table):
    """The quality and repetition rules of Rae et al. 2021 (Gopher), appendix A.1.1."""

    quality: bool = Field(False, description="Apply the length, symbol and stop-word rules.")
    repetition: bool = Field(False, description="Apply the repetition rules.")
    min_words: int = Field(50, ge=0, description="Fewest words of a document.")
    max_words: int = Field(100_000, ge=1, description="Most words of a document.")
    min_mean_word_length: float = Field(3.0, description="Smallest mean word length.")
    max_mean_word_length: float = Field(10.0, description="Largest mean word length.")
    max_symbol_ratio: float = Field(0.1, description="Most '#' and '...' per word.")
    max_bullet_lines: float = Field(0.9, description="Largest share of lines with a bullet.")
    max_ellipsis_lines: float = Field(0.3, description="Largest share of lines ending in '...'.")
    min_alphabetic_words: float = Field(0.8, description="Smallest share of words with a letter.")
    min_stop_words: int = Field(
        2, ge=0, description="Fewest different words out of: the be to of and that have with."
    )


class CleaningConfig(_Table):
    """Cleaning steps, in the order in which they run."""

    unicode_form: Literal["NFC", "NFKC", "none"] = Field(
        "NFC", description="Unicode normalisation; NFKC also folds compatibility characters."
    )
    control_characters: bool = Field(
        True, description="Remove control characters other than tab, newline, carriage return."
    )
    min_characters: int = Field(1, ge=1, description="Fewest characters of a document.")
    max_characters: int = Field(
        0, ge=0, description="Most characters of a document; 0 for any number."
    )
    gopher: GopherConfig = Field(GopherConfig(), description="The Gopher rules.")
    exact_duplicates: bool = Field(True, description="Drop repeated documents.")
    near_duplicates: bool = Field(False, description="Drop near-duplicates (MinHash-LSH).")
    near_threshold: float = Field(
        0.8, gt=0, lt=1, description="Jaccard similarity of word n-grams called a near-duplicate."
    )
    near_ngram: int = Field(5, ge=1, description="Words per n-gram for near-duplicates.")
    near_permutations: int = Field(128, ge=16, description="Length of a MinHash signature.")
    num_examples: int = Field(3, ge=0, description="Examples per reason kept in the report.")


class TokenizerTrainConfig(_Table):
    """`resonance tokenizer train`: train a SentencePiece tokenizer from a stream of text."""

    inputs: tuple[str, ...] = Field(
        ("stdlib",), description="Files, folders, globs, URLs, or the embedded corpus 'stdlib'."
    )
    output: str = Field("tokenizer.model", description="Where the model is written.")
    vocab_size: int = Field(4096, ge=264, description="Pieces, bytes and special tokens included.")
    model_type: Literal["bpe", "unigram"] = Field("bpe", description="Kind of SentencePiece model.")
    byte_fallback: bool = Field(
        True, description="Spell unknown characters as bytes, so that no text is lost."
    )
    character_coverage: float = Field(
        0.9999, gt=0.9, le=1, description="Share of characters that get a piece of their own."
    )
    max_sentences: int = Field(
        1_000_000, ge=101, description="Text chunks (about 4 KB each) sampled from a larger corpus."
    )
    num_threads: int = Field(2, ge=1, description="Threads of the trainer.")
    read: ReadConfig = Field(ReadConfig(), description="How documents are found in the inputs.")
    storage: StorageConfig = Field(StorageConfig(), description="How files are reached.")


class BuildConfig(_Table):
    """`resonance data build`: clean, tokenize and write a corpus as shards with a manifest."""

    sources: tuple[str, ...] = Field(
        ("stdlib",), description="Files, folders, globs, URLs, or the embedded corpus 'stdlib'."
    )
    tokenizer: str = Field(
        "byte", description="SentencePiece model, Hugging Face tokenizer folder, or 'byte'."
    )
    output: str = Field("data", description="Folder for train/, valid/ and report.json.")
    valid_fraction: float = Field(
        0.05, ge=0, lt=1, description="Share of documents held out, chosen by their hash."
    )
    shard_bytes: int = Field(
        0,
        ge=0,
        description="UTF-8 bytes of text per shard; 0 for 1/32 of the corpus, between 256 KiB "
        "and 64 MiB.",
    )
    part_bytes: int = Field(
        32 * 2**20, ge=1024, description="Source bytes that are read and cleaned as one task."
    )
    num_processes: int = Field(1, ge=1, description="Worker processes; shards do not depend on it.")
    read: ReadConfig = Field(ReadConfig(), description="How documents are found in the sources.")
    cleaning: CleaningConfig = Field(CleaningConfig(), description="Cleaning steps.")
    storage: StorageConfig = Field(StorageConfig(), description="How files are reached.")


class VerifyConfig(_Table):
    """`resonance data verify`: compare shards with their manifest."""

    path: str = Field(description="Folder or URL with manifest.json, or the folder above it.")
    storage: StorageConfig = Field(StorageConfig(), description="How files are reached.")


class StatsConfig(_Table):
    """`resonance data stats`: tokens, documents and a histogram of document lengths."""

    path: str = Field(description="Folder or URL with manifest.json, or the folder above it.")
    png: str = Field("", description="Also draw the histogram into this PNG file.")
    storage: StorageConfig = Field(StorageConfig(), description="How files are reached.")


class WeightAt(_Table):
    """One corner of a weight that changes during training."""

    step: int = Field(ge=0, description="Training step.")
    weight: float = Field(ge=0, description="Weight at that step; linear in between.")


class DatasetConfig(_Table):
    """One dataset of a mixture."""

    path: str = Field(description="Folder or URL with manifest.json.")
    weight: float = Field(1.0, ge=0, description="Share of rows, relative to the other datasets.")
    schedule: tuple[WeightAt, ...] = Field(
        (), description="Weights by step, in ascending order; replaces `weight`."
    )


class DataConfig(_Table):
    """The `[data]` table of a run file: which shards are read, and in which order."""

    datasets: tuple[DatasetConfig, ...] = Field((), description="Training datasets.")
    valid: str = Field("", description="Folder or URL with the held-out split's manifest.json.")
    tokenizer: str = Field(
        "byte", description="Tokenizer that made the shards; kept in every checkpoint."
    )
    sequence_length: int = Field(512, ge=1, le=204_800, description="Tokens per window.")
    seed: int = Field(0, ge=0, description="Seed of the order.")
    shuffle: bool = Field(True, description="Shuffle shards, and documents inside blocks.")
    shuffle_block: int = Field(
        4, ge=1, description="Shards whose documents are shuffled together as one block."
    )
    lanes: int = Field(
        0,
        ge=0,
        description="Places of an epoch that are read side by side; 0 for as many as leave 8 "
        "windows each, at most 64.",
    )
    num_workers: int = Field(1, ge=0, description="Reader processes per rank; 0 reads in line.")
    prefetch: int = Field(4, ge=1, description="Steps that each reader process prepares ahead.")
    pin_memory: bool = Field(True, description="Pin batches when there is a CUDA device.")
    worker_timeout_s: float = Field(
        300.0, ge=0, description="Longest wait for a reader process; 0 waits for ever."
    )
    verify_shards: bool = Field(True, description="Check a shard's SHA-256 when it is opened.")
    on_corrupt_shard: Literal["fail", "skip"] = Field(
        "fail", description="Stop, or mask the shard's tokens, count them and go on."
    )
    cache: str = Field("", description="Folder for shards that come from HTTP or S3.")
    cache_bytes: int = Field(
        20 * 2**30,
        ge=1,
        description="Size that the cache is kept below (one shard is always kept).",
    )
    storage: StorageConfig = Field(StorageConfig(), description="How files are reached.")
