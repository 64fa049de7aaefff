"""Conditions without which keys of a build have no effect (imports no torch)."""

from typing import Any

from data_pipeline.cleaning_config import GopherConfig
from data_pipeline.cluster_config import KINDS, ClusterConfig
from data_pipeline.idle_keys import Need

SWITCHES = ("quality", "repetition")
THRESHOLDS = tuple(
    f"cleaning.gopher.{key}" for key in GopherConfig.model_fields if key not in SWITCHES
)


def _near_duplicates(config: Any) -> bool:
    return bool(config.cleaning.near_duplicates)


_CLUSTER = tuple(f"cluster.{key}" for key in ClusterConfig.model_fields if key != "kind")
_SLURM = tuple(
    f"cluster.{key}" for key in ("walltime", "partition", "account", "interface", "host", "setup")
)

NEEDS = (
    Need(_CLUSTER, lambda config: config.cluster.kind, "cluster"),
    Need(_SLURM, lambda config: config.cluster.kind in ("", "slurm"), "cluster slurm"),
    Need(
        ("cluster.workers", "cluster.min_workers", "cluster.memory"),
        lambda config: config.cluster.kind in ("", *KINDS),
        "a cluster that the build starts",
    ),
    Need(
        ("cluster.tls_ca", "cluster.tls_cert", "cluster.tls_key"),
        lambda config: not config.cluster.kind or config.cluster.kind.startswith("tls:"),
        "cluster tls://HOST:PORT",
    ),
    Need(("decontaminate_ngram",), lambda config: config.decontaminate, "decontaminate"),
    Need(("num_processes",), lambda config: not config.cluster.kind, "no cluster"),
    Need(THRESHOLDS, lambda config: config.cleaning.gopher.quality, "cleaning.gopher.quality"),
    Need(
        ("cleaning.near_threshold", "cleaning.near_ngram", "cleaning.near_permutations"),
        _near_duplicates,
        "cleaning.near_duplicates",
    ),
    Need(
        ("read.language_key",),
        lambda config: config.read.format != "text",
        "another read.format than text",
    ),
    Need(
        ("read.text_key",),
        lambda config: config.read.format != "text" and config.kind != "pairs",
        "another read.format than text, and another kind than pairs",
    ),
    Need(
        ("read.label_key", "read.label_separator", "labels_of"),
        lambda config: config.kind == "labelled",
        "kind labelled",
    ),
    Need(
        ("read.source_key", "read.target_key"),
        lambda config: config.kind == "pairs",
        "kind pairs",
    ),
    Need(
        ("read.columns",),
        lambda config: config.read.format in ("auto", "csv", "tsv"),
        "read.format csv, tsv or auto",
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
