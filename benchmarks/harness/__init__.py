"""Parts that benchmarks share: thresholds, result files, fresh processes, timing, texts, reports."""
