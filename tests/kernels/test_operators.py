"""Every torch operator of `kernels/`: gradients, registrations, compilation into one graph."""

import pytest
import torch

from kernels.op_info import op_infos

CASES = {
    name: make for info in op_infos().values() for name, make in sorted(info.gradchecks.items())
}


@pytest.mark.parametrize("block_elements", [1, 1 << 16])
@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, block_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # several blocks and one
    monkeypatch.setattr("kernels.blocks.BLOCK_ELEMENTS", block_elements)
    torch.manual_seed(0)
    case = CASES[name]()
    assert torch.autograd.gradcheck(case.function, case.inputs)


def _strided(value: object) -> object:
    """A tensor of equal values whose first axis is the last in memory; others as they are."""
    if not isinstance(value, torch.Tensor) or value.ndim < 2:
        return value
    moved = value.detach().movedim(0, -1).contiguous().movedim(-1, 0)
    return moved.requires_grad_(value.requires_grad)


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("name", CASES)
def test_operators_are_registered_soundly(name: str, strided: bool) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    operator = getattr(torch.ops.resonance, case.operator)
    inputs = tuple(map(_strided, case.operator_inputs)) if strided else case.operator_inputs
    assert set(torch.library.opcheck(operator, inputs).values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", CASES)
def test_operators_compile_to_one_graph(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*case.inputs), case.function(*case.inputs))
