"""Near-duplicates by joins, and a local cluster, compared with what one machine has.

    python -m benchmarks.corpora

Signatures are synthetic: three of ten documents keep 60 to 100% of the values of an earlier one.
Each size runs in a process of its own, whose memory includes the pages of files that it maps.
"""

from benchmarks.corpora.clusters import measure_clusters
from benchmarks.corpora.near_duplicates import measure_growth, measure_pairs
from benchmarks.harness.command import run_benchmark
from benchmarks.harness.thresholds import Outcome


def measure(quick: bool) -> Outcome:
    """Measure growth, pairs and clusters."""
    if quick:
        sizes, compared, texts = (500, 1_000), 1_000, 200
        cluster = (100_000, 512, 1)
    else:
        sizes, compared, texts = (10_000, 100_000, 1_000_000), 100_000, 2_000
        cluster = (32_000_000, 4_096, 2)
    figures = measure_growth(sizes, compared) + measure_pairs(texts) + measure_clusters(*cluster)
    return Outcome(f"Signatures of 128 values; {texts:,} texts of 200 words.", figures)


if __name__ == "__main__":
    run_benchmark("corpora", __doc__, measure)
