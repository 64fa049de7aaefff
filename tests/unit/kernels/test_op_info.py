"""Every op is a folder with all its files, and every torch operator has a formula of its FLOPs."""

import importlib
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.op_info import FILES, FOLDER, Formula, OpInfo, op_infos, op_names
from pretrain.huggingface.source_bundle import bundled_sources
from pretrain.runtime.flops import op_formulas

CASES = {
    name: (op, make)
    for op, info in op_infos().items()
    for name, make in sorted(info.gradchecks.items())
}
NAMESPACE = "resonance::"


def registered_operators() -> set[str]:
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix(NAMESPACE) for name in names if name.startswith(NAMESPACE)}


def test_there_are_ops() -> None:
    assert {"fft_conv", "short_conv", "document_reset"} <= set(op_names())


@pytest.mark.parametrize("op", op_names())
def test_an_op_has_all_its_files(op: str) -> None:
    assert [name for name in FILES if not (FOLDER / op / f"{name}.py").is_file()] == []


@pytest.mark.parametrize("op", op_names())
def test_an_op_has_formulas_launches_and_gradchecks(op: str) -> None:
    info = importlib.import_module(f"kernels.{op}.info").INFO
    assert isinstance(info, OpInfo)
    assert info.flops
    assert info.launches(torch.float16)
    forward = {name for name in info.flops if not name.endswith("_backward")}
    assert {make().operator for make in info.gradchecks.values()} == forward


def test_every_operator_has_one_formula() -> None:
    formulas = Counter(name for info in op_infos().values() for name in info.flops)
    assert set(formulas) == registered_operators()
    assert set(formulas.values()) == {1}


def test_a_folder_without_files_of_python_is_no_op(tmp_path: Path) -> None:
    (tmp_path / "op").mkdir()
    (tmp_path / "op/reference.py").touch()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/reference.pyc").touch()
    assert op_names(tmp_path) == ["op"]


def fft_flops(shape: tuple[int, ...], dims: list[int]) -> int:
    """Half of a complex transform's 5 n log2 n, for every row of real samples."""
    size, (dim,) = torch.Size(shape), dims
    points = size[dim]
    return size.numel() // points * round(2.5 * points * math.log2(points))


# torch's counter has no transforms, and of `addmm` not the form that adds in place
MISSING: dict[Any, Formula] = {
    torch.ops.aten.addmm_: lambda _sum, a, b, **_: 2 * a[0] * a[1] * b[1],
    torch.ops.aten._fft_r2c: lambda x, dims, *_, **_k: fft_flops(x, dims),
    torch.ops.aten._fft_c2r: lambda _x, dims, *_, out_shape, **_k: fft_flops(out_shape, dims),
}


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("short_conv")])
def test_formulas_count_what_the_references_compute(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward, against torch's own count of the references' products."""
    op, make = CASES[name]
    calls: list[tuple[Any, tuple[Any, ...]]] = []
    module = importlib.import_module(f"kernels.{op}.op")

    def recording_run(reference: Any, *arguments: Any) -> Any:
        calls.append((reference, arguments))
        return reference(*arguments)

    monkeypatch.setattr(module, "run", recording_run)
    torch.manual_seed(0)
    case = make()
    with FlopCounterMode(display=False, custom_mapping=op_formulas()) as counter:
        output = case.function(*case.inputs)
        outputs = [output] if isinstance(output, torch.Tensor) else output
        torch.autograd.grad(outputs, case.inputs, [torch.randn_like(i) for i in outputs])
    found = {str(key): count for key, count in counter.get_flop_counts()["Global"].items()}
    for reference, arguments in calls:
        with FlopCounterMode(display=False, custom_mapping=MISSING) as expected, torch.no_grad():
            reference(*arguments)
        operator = f"resonance.{reference.__name__}"
        assert found[operator] == expected.get_total_flops(), operator


def short_conv_products(B: int, T: int, D: int, W: int) -> int:
    return sum(1 for _b in range(B) for _t in range(T) for _d in range(D) for _w in range(W))


@pytest.mark.parametrize(("B", "T", "D", "W"), [(1, 1, 1, 1), (2, 5, 3, 4)])
def test_a_short_convolution_multiplies_every_tap_with_every_token(
    B: int, T: int, D: int, W: int
) -> None:
    flops = op_infos()["short_conv"].flops
    x, past, taps = (B, T, D), (B, W - 1, D), (W, D)
    products = short_conv_products(B, T, D, W)
    assert flops["short_conv"](x, past, taps, None) == 2 * products
    # to the token's gradient, and to the tap's
    assert flops["short_conv_backward"](x, x, past, taps, None) == 4 * products


def test_formulas_need_no_triton_and_exports_no_formulas() -> None:
    code = "import sys; from pretrain.runtime.flops import op_formulas; op_formulas(); "
    code += "assert not [m for m in sys.modules if m.endswith('.triton') and 'kernels' in m]"
    subprocess.run([sys.executable, "-c", code], check=True)
    files = bundled_sources()
    assert "kernels_blocks.py" in files
    assert not [name for name in files if name.endswith("info.py") or "aot_" in name]
