"""Configuration of the data pipeline: tokenizer training, building, inspection and streaming.

Imports neither torch nor anything that reads data: a login node validates run files with it.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from data_pipeline.cleaning_config import CleaningConfig
from data_pipeline.cluster_config import ClusterConfig
from data_pipeline.config_table import Table

# a longer document of a plain text file (50 MB texts exist) is split
MAX_DOCUMENT_BYTES = 64 * 2**20


_PathOrStr = TypeVar("_PathOrStr", str, Path)


def _local(path: _PathOrStr) -> _PathOrStr:
    # a path has lost the second slash of a URL
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise ValueError(f"expected a path on this machine, found the URL {str(path)!r}")
    if "\0" in str(path):
        raise ValueError(f"expected a path, found {str(path)!r}")
    return path


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) else value


# where output goes that cannot be written to object stores
# of a run file too, whose numbers may not be strings
LocalPath = Annotated[Path, BeforeValidator(_path), AfterValidator(_local)]
LocalName = Annotated[str, AfterValidator(_local)]


class StorageConfig(Table):
    """Access to files on disks, HTTP servers and object stores."""

    attempts: int = Field(5, ge=1, description="Attempts per request before giving up.")
    first_delay_s: float = Field(
        0.5, ge=0, description="Seconds before the second attempt; doubled for each further one."
    )
    timeout_s: float = Field(60.0, gt=0, description="Time limit of one request, in seconds.")
    num_readers: int = Field(
        8, ge=1, description="Number of shards that a process downloads at the same time."
    )
    endpoint_url: str = Field("", description="URL of the S3 endpoint; empty for Amazon's.")
    anonymous: bool = Field(
        False, description="Whether to read public S3 buckets without credentials."
    )
    allow_pipe: bool = Field(
        False, description="Whether pipe:COMMAND may be a URL; it runs COMMAND in a shell."
    )
    max_member_bytes: int = Field(
        256 * 2**20,
        ge=1024,
        description="Largest sample of an archive of images or sound, as stored and as decoded, in "
        "bytes.",
    )
    allow_unsafe_members: bool = Field(
        False, description="Whether tar members may have absolute paths or '..' in their names."
    )


class ReadConfig(Table):
    """Layout of documents inside source files."""

    format: Literal["auto", "text", "jsonl", "parquet", "csv", "tsv"] = Field(
        "auto", description="Format of the sources; auto decides by suffix, text if unknown."
    )
    columns: tuple[str, ...] = Field(
        (), description="Names of the columns of CSV and TSV files that have no line of names."
    )
    document: Literal["file", "line", "paragraph"] = Field(
        "file",
        description="Unit of plain text that is one document; paragraphs end at empty lines.",
    )
    text_key: str = Field("text", description="Key or column of the text.")
    label_key: str = Field(
        "label", description="Key or column of the label of a text: a string, an integer or a list."
    )
    label_separator: str = Field(
        "", description="Text between the labels of a string of several; empty for one label."
    )
    source_key: str = Field("source", description="Key or column of the source of a pair.")
    target_key: str = Field("target", description="Key or column of the target of a pair.")
    language_key: str = Field(
        "language", description="Optional JSONL key or Parquet column of the language."
    )
    language: str = Field("", description="Language of documents that do not name theirs.")
    max_document_bytes: int = Field(
        MAX_DOCUMENT_BYTES,
        ge=1024,
        description="Largest document, in bytes: longer plain text is split, at line ends where "
        "there are any; longer lines of JSONL and values of Parquet are bad input.",
    )
    on_bad_input: Literal["fail", "skip"] = Field(
        "fail",
        description="Reaction to broken JSON, missing text, invalid UTF-8 and truncated files: "
        "fail, or skip and count.",
    )


class TokenizerTrainConfig(Table):
    """Train a SentencePiece tokenizer on a stream of text."""

    inputs: tuple[str, ...] = Field(
        ("stdlib",), description="Files, folders, globs, URLs, or the embedded corpus 'stdlib'."
    )
    output: LocalName = Field("tokenizer.model", description="Path of the model file to write.")
    vocab_size: int = Field(
        4096, ge=264, description="Size of the vocabulary, bytes and special tokens included."
    )
    model_type: Literal["bpe", "unigram"] = Field("bpe", description="Kind of SentencePiece model.")
    byte_fallback: bool = Field(
        True, description="Whether to spell unknown characters as bytes, so that no text is lost."
    )
    character_coverage: float = Field(
        0.9999, gt=0.9, le=1, description="Share of the text's characters that get their own piece."
    )
    max_sentences: int = Field(
        1_000_000,
        ge=101,
        description="Number of text chunks (about 4 KB each) sampled from a larger corpus.",
    )
    num_threads: int = Field(2, ge=1, description="Threads of the trainer.")
    read: ReadConfig = Field(ReadConfig(), description="Layout of documents inside the inputs.")
    storage: StorageConfig = Field(StorageConfig(), description="Access to files.")


class BuildConfig(Table):
    """Clean and tokenize a corpus, and write it as shards with a manifest."""

    sources: tuple[str, ...] = Field(
        ("stdlib",), description="Files, folders, globs, URLs, or the embedded corpus 'stdlib'."
    )
    tokenizer: str = Field(
        "byte", description="SentencePiece model, Hugging Face tokenizer folder, or 'byte'."
    )
    kind: Literal["texts", "labelled", "pairs"] = Field(
        "texts",
        description="What is built: texts, texts with labels, or pairs of source and target.",
    )
    labels_of: str = Field(
        "",
        description="Folder of a split whose labels are used, in their order; a label that it "
        "lacks is bad input. Empty: the labels of these sources, sorted.",
    )
    output: LocalName = Field("data", description="Folder for train/, valid/ and report.json.")
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
    num_processes: int = Field(
        1, ge=1, description="Worker processes; shards do not depend on their number."
    )
    against: tuple[str, ...] = Field(
        (),
        description="Earlier builds by the same tokenizer, folders or URLs: documents that "
        "duplicate theirs are dropped.",
    )
    decontaminate: tuple[str, ...] = Field(
        (),
        description="JSONL files of evaluation texts: documents that share an n-gram with one "
        "are dropped.",
    )
    decontaminate_ngram: int = Field(13, ge=1, description="Words per n-gram for decontamination.")
    cluster: ClusterConfig = Field(
        ClusterConfig(), description="Processes of other machines, instead of num_processes."
    )
    read: ReadConfig = Field(ReadConfig(), description="Layout of documents inside the sources.")
    cleaning: CleaningConfig = Field(CleaningConfig(), description="Cleaning steps.")
    storage: StorageConfig = Field(StorageConfig(), description="Access to files.")


class VerifyConfig(Table):
    """Compare shards with their manifest."""

    path: str = Field(description="Folder or URL with manifest.json, or the folder above it.")
    storage: StorageConfig = Field(StorageConfig(), description="Access to files.")


class StatsConfig(Table):
    """Print tokens, documents and a histogram of document lengths."""

    path: str = Field(description="Folder or URL with manifest.json, or the folder above it.")
    png: LocalName = Field("", description="PNG file to draw the histogram into; empty for none.")
    storage: StorageConfig = Field(StorageConfig(), description="Access to files.")


class WeightAt(Table):
    """Corner of a weight that changes during training."""

    step: int = Field(ge=0, description="Training step.")
    weight: float = Field(ge=0, description="Weight at this step; linear between corners.")


class DatasetConfig(Table):
    """Dataset of a mixture."""

    path: str = Field(description="Folder or URL with manifest.json.")
    weight: float = Field(1.0, ge=0, description="Share of rows, relative to the other datasets.")
    schedule: tuple[WeightAt, ...] = Field(
        (), description="Weights by step, in ascending order; replaces `weight`."
    )


class DataConfig(Table):
    """The `[data]` table of a run file: the shards to read, and their order."""

    datasets: tuple[DatasetConfig, ...] = Field((), description="Training datasets.")
    valid: str = Field("", description="Folder or URL with manifest.json of the held-out split.")
    tokenizer: str = Field(
        "byte", description="Tokenizer that made the shards; stored in every checkpoint."
    )
    sequence_length: int = Field(512, ge=1, le=204_800, description="Tokens per window.")
    seed: int = Field(0, ge=0, lt=2**63, description="Random seed of the order.")
    shuffle: bool = Field(
        True, description="Whether to shuffle shards, and documents within blocks."
    )
    shuffle_block: int = Field(
        4, ge=1, description="Shards per block; the documents of a block are shuffled together."
    )
    long_texts: Literal["refuse", "cut"] = Field(
        "refuse",
        description="Texts with labels that are longer than sequence_length: refuse the run, or "
        "cut their end off.",
    )
    lanes: int = Field(
        0,
        ge=0,
        description="Number of places in an epoch that are read in parallel; 0 for as many as "
        "leave each 8 windows, at most 64.",
    )
    num_workers: int = Field(
        1, ge=0, description="Reader processes per rank; 0 reads in the rank's own process."
    )
    prefetch: int = Field(4, ge=1, description="Steps that each reader process prepares ahead.")
    pin_memory: bool = Field(
        True, description="Whether to pin batches in memory if there is a CUDA device."
    )
    worker_timeout_s: float = Field(
        300.0, ge=0, description="Longest wait for a reader process, in seconds; 0 for no limit."
    )
    verify_shards: bool = Field(
        True, description="Whether to check a shard's SHA-256 when it is opened."
    )
    on_corrupt_shard: Literal["fail", "skip"] = Field(
        "fail",
        description="Reaction to a corrupt shard, or a store that does not answer: fail, "
        "or skip (mask and count its tokens; a store is asked again later).",
    )
    cache: LocalName = Field(
        "", description="Folder for shards from HTTP or S3; empty for the user's cache folder."
    )
    cache_bytes: int = Field(
        20 * 2**30, ge=1, description="Size limit of the cache; one shard is always kept."
    )
    storage: StorageConfig = Field(StorageConfig(), description="Access to files.")
