"""Encoders and classifiers in the one trainer: every layout trains as one rank does."""

import itertools
from pathlib import Path

import pytest

from tests.conftest import SmallCorpus
from tests.distributed.layout_runs import OBJECTIVES, Case, Layout, check

LAYOUTS = [
    Layout(data=2, zero=2),
    Layout(pipeline=2, micro=2),
    Layout(tensor=2, sequence=2, zero=3, recompute="full"),
]
MORE = [
    Layout(tensor=2, micro=2, recompute="selective"),
    Layout(sequence=2, data=2, zero=2),
    Layout(sequence=4),
    Layout(pipeline=2, tensor=2),
    Layout(pipeline=2, sequence=2),
    Layout(data=4, zero=3),
]


def test_objectives_train_alike_in_layouts(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    # the objectives take turns; all are in the longer test
    models = itertools.cycle(OBJECTIVES)
    cases = [Case(model, layout) for model, layout in zip(models, LAYOUTS, strict=False)]
    check(cases, small_corpus, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_objectives_train_alike_in_more_layouts(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    cases = [Case(model, layout) for model in OBJECTIVES for layout in [*LAYOUTS, *MORE]]
    check(cases, small_corpus, tmp_path)
