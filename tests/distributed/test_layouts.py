"""Every layout gives the same training: losses, gradients and parameters as on one rank."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallCorpus
from tests.distributed.layout_runs import MODELS, PAIRS, Case, Layout, check

VALUES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("tensor", "pipeline", "sequence", "data"), (1, 2)),
    "zero": (0, 1, 2, 3),
    "micro": (1, 2),
    "recompute": ("none", "selective", "full"),
}
# stages go with ZeRO 1 alone
IMPOSSIBLE = {("pipeline", 2, "zero", stage) for stage in (0, 2, 3)}


def _whole_matrix() -> list[Layout]:
    sizes = [s for s in itertools.product((1, 2), repeat=4) if math.prod(s) in (2, 4)]
    rest = itertools.product(VALUES["zero"], VALUES["micro"], VALUES["recompute"])
    layouts = [Layout(*s, *r) for s, r in itertools.product(sizes, rest)]
    return [x for x in layouts if x.pipeline == 1 or x.zero == 1]


def test_the_layouts_pair_every_two_values() -> None:
    wanted, found = set(), set()
    for first, second in itertools.combinations(VALUES, 2):
        pairs = itertools.product(VALUES[first], VALUES[second])
        wanted |= {(first, one, second, other) for one, other in pairs}
        found |= {(first, getattr(x, first), second, getattr(x, second)) for x in PAIRS}
    assert wanted - found == IMPOSSIBLE


@pytest.mark.timeout(900)
def test_layouts_equal_one_rank(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    plain = [Case("plain", layout) for layout in PAIRS]
    # with every feature, in layouts of four ranks; each sums two gradients up in a step
    gated = [
        Case("everything", x, batch=2 * x.data) for x in PAIRS if x.ranks == 4 and x.micro == 1
    ]
    four = Layout(pipeline=2, sequence=2), Layout(tensor=2, sequence=2, zero=2)
    delta = [Case("delta", x) for x in four]
    check([*plain, *gated[::2], *delta], small_corpus, tmp_path)


# DeepSpeed compiles its own library for it, once, which takes ten minutes
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_states_on_disk_equal_one_rank(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    if not Path("/usr/include/libaio.h").exists():
        pytest.skip("libaio's headers are missing (libaio-dev)")
    layouts = Layout(zero=3, states="nvme"), Layout(data=2, zero=3, states="nvme")
    check([Case("plain", layout) for layout in layouts], small_corpus, tmp_path, fresh=True)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("model", MODELS)
def test_every_layout_equals_one_rank(
    model: str, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    layouts = _whole_matrix()
    if model == "everything":
        # DeepSpeed reduces no float64 without ZeRO
        layouts = [layout for layout in layouts if layout.zero > 0]
    check([Case(model, x) for x in layouts], small_corpus, tmp_path, fresh=True)
