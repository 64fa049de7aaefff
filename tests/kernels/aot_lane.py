"""Every kernel compiled for GPUs that are not here: instructions, registers, memory.

Run by `test_lanes.py` in a process of its own, without the interpreter.
"""

import pytest
import torch

from kernels.aot_compile import TARGETS, Launch, Target, compile_for, launches, named_launches
from kernels.op_info import op_infos

# bytes of stack, that is of spilled registers. Two complex planes of a 64 x 64 tile and, for the
# filter's gradient, two more fill all registers; sm_80 and gfx942 keep operands in them as well
MONARCH_STACK_BYTES = {"sm_80": 3072, "sm_90": 384, "sm_100": 384, "gfx942": 1280}
OTHER_STACK_BYTES = 128
# of each way of computing, the ones that the quick tests compile for every target
SAMPLE = ("fft_conv.toeplitz 64", "fft_conv.monarch 2048", "recall.local packed")


def check(name: str, launch: Launch, target: Target) -> str | None:
    """What is wrong with a compiled kernel, if anything."""
    found = compile_for(launch, target)
    monarch = launch.name.startswith("fft_conv.monarch")
    stack = MONARCH_STACK_BYTES[target.name] if monarch else OTHER_STACK_BYTES
    if found.stack_bytes > stack:
        return f"{name} on {target.name}: {found.stack_bytes} bytes of stack, at most {stack}"
    if found.shared_bytes > target.shared_bytes:
        return (
            f"{name} on {target.name}: {found.shared_bytes} of {target.shared_bytes} bytes shared"
        )
    if op_infos()[launch.name.split(".")[0]].tensor_cores and found.matrix_instructions == 0:
        return f"{name} on {target.name}: no {target.matrix}"
    return None


def check_all(named: dict[str, Launch], target: Target) -> None:
    checked = [check(name, launch, target) for name, launch in named.items()]
    findings = [finding for finding in checked if finding]
    assert not findings, "\n".join(findings)


def test_every_kernel_on_sm_90() -> None:
    named = named_launches(torch.float16)
    assert len(named) > 40
    # no op is without a launch
    assert {launch.name.split(".")[0] for launch in named.values()} == set(op_infos())
    check_all(named, TARGETS["sm_90"])


# the other maker's compiler always, the older and newer targets of the same one in the long lane
@pytest.mark.parametrize(
    "target",
    ["gfx942", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sm_80", "sm_100"))],
)
def test_one_kernel_of_each_kind_elsewhere(target: str) -> None:
    named = named_launches(torch.float16)
    check_all({name: named[name] for name in SAMPLE}, TARGETS[target])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_kernel_on_every_target(target: str, dtype: torch.dtype) -> None:
    named = named_launches(dtype)
    if target == "gfx942" and dtype == torch.float32:
        # not served there: see MAX_CHUNK_FLOAT32
        del named["fft_conv.monarch 2048"], named["fft_conv.monarch_filter 2048"]
    check_all(named, TARGETS[target])


def test_interpreted_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1: unset it"):
        launches(lambda: None)


def test_a_kernel_with_too_small_products_has_no_matrix_instruction() -> None:
    """What the lane looks for is absent where it should be."""
    launch = named_launches(torch.float16)["spectral_gate.energy"]
    assert compile_for(launch, TARGETS["sm_90"]).matrix_instructions == 0
