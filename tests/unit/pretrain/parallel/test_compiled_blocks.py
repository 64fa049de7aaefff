"""When compiled blocks are compiled, and when not."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.parallel import compiled_blocks
from pretrain.parallel.activation_checkpointing import checkpoint_activations
from pretrain.parallel.mesh import Axis, Mesh
from pretrain.train_config import TrainConfig
from spectral.lm import SpectralLM
from tests.unit.spectral.causality.checks import small_config, some_tokens

# torch's own compiler causes both, and hides the first from users
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
ALONE = Axis(1, 0, None)
MESH = Mesh(ALONE, ALONE, ALONE, ALONE, ALONE)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Graphs that were given to the compiler, which runs them as they are."""
    given: list[Any] = []

    def compiler(graph: Any, inputs: Any) -> Any:
        del inputs
        given.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled_blocks, "COMPILER", {"backend": compiler})
    torch._dynamo.reset()
    return given


def _model(**train: Any) -> SpectralLM:
    torch.manual_seed(0)
    model = SpectralLM(small_config())
    checkpoint_activations(model.blocks, TrainConfig(**train))
    compiled_blocks.compile_blocks(model, MESH)
    return model


def test_layers_of_one_kind_share_a_graph(graphs: list[Any]) -> None:
    _model().train()(some_tokens(1, 21))
    assert len(graphs) == 1


def test_halves_of_a_block_are_compiled_if_one_is_recomputed(graphs: list[Any]) -> None:
    _model(activation_checkpointing="selective").train()(some_tokens(1, 21))
    assert len(graphs) == 2


def test_evaluation_is_not_compiled(graphs: list[Any]) -> None:
    _model().eval()(some_tokens(1, 21))
    assert graphs == []


def test_a_mode_sees_the_operators_of_the_plain_block(graphs: list[Any]) -> None:
    flops = []
    for model in (_model(), SpectralLM(small_config())):
        with FlopCounterMode(display=False) as counter:
            model.train()(some_tokens(1, 21))
        flops.append(counter.get_total_flops())
    assert graphs == []
    assert flops[0] == flops[1] > 0


def test_the_number_of_document_starts_makes_no_new_graph(graphs: list[Any]) -> None:
    model = _model().train()
    for borders in ([2, 12], [3, 5, 13], [1, 4, 10, 20]):
        segment_ids_BT = torch.zeros(1, 21, dtype=torch.long)
        for border in borders:
            segment_ids_BT[:, border:] += 1
        model(some_tokens(1, 21), segment_ids_BT)
    assert len(graphs) == 1
