"""The page of results and the command that runs all benchmarks."""
