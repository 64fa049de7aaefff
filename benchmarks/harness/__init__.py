"""Parts that benchmarks share: command line, bars, result files, fresh processes, texts, report."""
