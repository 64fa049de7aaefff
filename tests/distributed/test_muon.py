"""Muon gives the same parameters in every layout, and orthogonalises every matrix once a step."""

from pathlib import Path

import pytest

from tests.conftest import SmallCorpus
from tests.distributed.layout_runs import MODELS, PAIRS, STEPS, Case, Layout, check

# 4 maps in a mixer's input, 1 in its output, 2 and 1 in the feed-forward
LAYER_MATRICES = 4 + 1 + 2 + 1


def _count_problem(case: Case, folder: Path) -> str:
    """Each matrix is orthogonalised once per step and copy of the model, wherever its parts are."""
    found = sum(case.result(folder, rank)[3] for rank in range(case.layout.ranks))
    # without ZeRO every data and sequence rank has all of the optimizer
    copies = case.layout.data * case.layout.sequence if case.layout.zero == 0 else 1
    layers = int(str(MODELS[case.model].get("num_layers", 2)))
    wanted = STEPS * layers * LAYER_MATRICES * copies
    return "" if found == wanted else f"{case}: {found} orthogonalisations for {wanted}"


@pytest.mark.timeout(900)
def test_muon_in_layouts_equals_one_rank(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    stages = Case("muon stages", Layout(pipeline=3))
    _check([*(Case("muon", layout) for layout in PAIRS[1::3]), stages], small_corpus, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_muon_in_more_layouts_equals_one_rank(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    _check([Case("muon", layout) for layout in PAIRS], small_corpus, tmp_path)


def _check(cases: list[Case], small_corpus: SmallCorpus, tmp_path: Path) -> None:
    check(cases, small_corpus, tmp_path)
    assert list(filter(None, (_count_problem(case, tmp_path) for case in cases))) == []
