"""Measurements of speed, memory and quality: every module here but `harness` is a benchmark.

python -m benchmarks.mixer              # measure, print a table and a line per bar
python -m benchmarks.mixer --quick      # every code path at tiny sizes; judges nothing
make benchmarks                         # all of them, and docs/results.md from their figures
"""
