"""Compiled blocks in every layout train like those of one rank that are not compiled.

What differs between layouts is where a graph ends and which gradients it has: torch traces it, and
runs it without making code, which takes minutes on these processors.
"""

from pathlib import Path

import pytest
import torch

from pretrain.config import RunConfig
from tests.conftest import SmallCorpus
from tests.distributed.layout_runs import Case, Layout, check, train_runs

FEW = [
    Case("plain", Layout(zero=3, recompute="full", compiled=True)),
    Case("plain", Layout(tensor=2, compiled=True)),
    Case("plain", Layout(sequence=2, recompute="selective", compiled=True)),
]
MANY = [
    Case("everything", Layout(micro=2, compiled=True)),
    Case("everything", Layout(zero=3, recompute="full", compiled=True)),
    Case("everything", Layout(recompute="selective", offload=True, compiled=True)),
    Case("everything", Layout(tensor=2, recompute="full", compiled=True)),
    Case("everything", Layout(sequence=2, zero=2, compiled=True)),
    Case("everything", Layout(pipeline=2, recompute="full", offload=True, compiled=True)),
    Case("plain", Layout(data=2, zero=0, micro=2, compiled=True)),
    Case("plain", Layout(data=2, zero=2, recompute="selective", compiled=True)),
    Case("plain", Layout(data=2, zero=3, compiled=True)),
    Case("plain", Layout(data=2, zero=3, recompute="selective", offload=True, compiled=True)),
    Case("plain", Layout(sequence=2, zero=3, recompute="full", states="cpu", compiled=True)),
    Case("plain", Layout(tensor=2, zero=3, recompute="full", compiled=True)),
    Case("plain", Layout(pipeline=2, micro=2, recompute="selective", compiled=True)),
]


def _train(rank: int, runs: dict[str, RunConfig], folder: Path) -> None:
    from torch._dynamo.utils import counters

    from pretrain.parallel import compiled_blocks

    compiled_blocks.COMPILER = {"backend": "aot_eager"}
    for name, run in runs.items():
        counters.clear()
        torch._dynamo.reset()
        train_runs(rank, {name: run}, folder)
        graphs, breaks = counters["stats"]["unique_graphs"], counters["graph_break"]
        is_split = max(run.parallel.tensor, run.parallel.sequence) > 1
        assert bool(graphs) == run.train.compile, f"{name}: {graphs} graphs"
        assert bool(breaks) == (run.train.compile and is_split), f"{name}: {breaks}"


@pytest.mark.timeout(900)
def test_compiled_blocks_equal_one_rank(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    check(FEW, small_corpus, tmp_path, train=_train)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_compiled_blocks_equal_one_rank_in_every_layout(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    check(MANY, small_corpus, tmp_path, train=_train)
