"""Conditions without which keys of a build have no effect (imports no torch)."""

from typing import Any

from data_pipeline.config import GopherConfig
from data_pipeline.idle_keys import Need

SWITCHES = ("quality", "repetition")
THRESHOLDS = tuple(
    f"cleaning.gopher.{key}" for key in GopherConfig.model_fields if key not in SWITCHES
)


def _near_duplicates(config: Any) -> bool:
    return bool(config.cleaning.near_duplicates)


NEEDS = (
    Need(THRESHOLDS, lambda config: config.cleaning.gopher.quality, "cleaning.gopher.quality"),
    Need(
        ("cleaning.near_threshold", "cleaning.near_ngram", "cleaning.near_permutations"),
        _near_duplicates,
        "cleaning.near_duplicates",
    ),
    Need(
        ("read.text_key", "read.language_key"),
        lambda config: config.read.format != "text",
        "read.format jsonl, parquet or auto",
    ),
    Need(
        ("read.document", "read.max_document_bytes"),
        lambda config: config.read.format in ("auto", "text"),
        "read.format text or auto",
    ),
    Need(
        ("storage.endpoint_url", "storage.anonymous"),
        lambda config: any(source.startswith("s3:") for source in config.sources),
        "a source on S3",
    ),
)
