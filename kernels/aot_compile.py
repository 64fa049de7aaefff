"""Ahead-of-time compilation of kernels for GPUs that are absent, and resources of the machine code.

Nothing is written twice: `launches` records the launches that the ops themselves would make, and
`compile_for` compiles exactly those. Needs Triton, which ships the assemblers and disassemblers,
and no GPU.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from kernels.op_info import op_infos


class Target(NamedTuple):
    """A GPU to compile for.

    Attributes:
        name: The vendor's name of the architecture.
        gpu: Triton's description of it.
        matrix: Regular expression of the beginnings of its matrix instructions.
        shared_bytes: Shared memory that one program can have.
    """

    name: str
    gpu: GPUTarget
    matrix: str
    shared_bytes: int


TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", GPUTarget("cuda", 80, 32), "HMMA", 163 * 1024),
        # small products take the older instruction
        Target("sm_90", GPUTarget("cuda", 90, 32), "HGMMA|HMMA", 227 * 1024),
        Target("sm_100", GPUTarget("cuda", 100, 32), "UTCHMMA|HMMA", 227 * 1024),
        Target("gfx942", GPUTarget("hip", "gfx942", 64), "v_mfma", 64 * 1024),
    )
}

_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}


class Launch(NamedTuple):
    """A launch of a kernel, with the arguments that its op passes.

    Attributes:
        kernel: The Triton kernel.
        arguments: Arguments by name.
        num_warps: Warps per program.
    """

    kernel: JITFunction
    arguments: dict[str, Any]
    num_warps: int

    @property
    def name(self) -> str:
        """Names of op and kernel, joined by a dot."""
        op = self.kernel.fn.__module__.split(".")[1]
        return f"{op}.{self.kernel.fn.__name__.removesuffix('_kernel')}"


class Resources(NamedTuple):
    """Resources that a compiled kernel needs.

    Attributes:
        registers: Registers per thread.
        stack_bytes: Stack per thread, which holds spilled registers.
        shared_bytes: Shared memory per program.
        matrix_instructions: Instructions of tensor cores.
        instructions: All instructions.
    """

    registers: int
    stack_bytes: int
    shared_bytes: int
    matrix_instructions: int
    instructions: int


@contextmanager
def _recording(recorded: list[Launch]) -> Iterator[None]:
    def record(self: JITFunction, *values: Any, **options: Any) -> None:
        names = self.arg_names
        arguments = dict(zip(names, values, strict=False))
        arguments |= {name: options[name] for name in names if name in options}
        recorded.append(Launch(self, arguments, options.get("num_warps", 4)))

    launch = JITFunction.run
    JITFunction.run = record
    try:
        yield
    finally:
        JITFunction.run = launch


def launches(function: Callable[..., Any], *arguments: Any) -> list[Launch]:
    """Launches that a function of an op's `triton.py` makes on CPU tensors. Nothing runs.

    Raises:
        RuntimeError: Kernels were imported for the interpreter and cannot be compiled.
    """
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        raise RuntimeError("TRITON_INTERPRET=1: unset it, interpreted kernels cannot be compiled")
    recorded: list[Launch] = []
    with _recording(recorded):
        function(*arguments)
    return recorded


def named_launches(dtype: torch.dtype) -> dict[str, Launch]:
    """Launches of every op at the sizes of real models, without those that would compile alike.

    Args:
        dtype: Dtype of signals.
    """
    named = {}
    for info in op_infos().values():
        for case in info.launches(dtype):
            for launch in launches(case.function, *case.arguments):
                suffixes = [case.label] if case.label else _flags(launch)
                named[" ".join([launch.name, *suffixes])] = launch
    return named


def _flags(launch: Launch) -> list[str]:
    """Names of the compile-time switches that are on."""
    return [
        name.lower()
        for name, value in launch.arguments.items()
        if name.isupper() and isinstance(value, bool) and value
    ]


def compile_for(launch: Launch, target: Target) -> Resources:
    """Compile a launch as Triton would at run time.

    Returns:
        The resources of the machine code.

    Cost: 1 to 20 seconds; less when Triton's cache has it.
    """
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[parameter.name], constants[(index,)] = "constexpr", value
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            tensor = isinstance(value, Tensor)
            signature[parameter.name] = _POINTERS[value.dtype] if tensor else "i32"
            # as Triton's launcher would detect at run time; allocations of GPUs are aligned
            if tensor or value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": launch.num_warps, "num_stages": 1}
    compiled = triton.compile(source, target=target.gpu, options=options)
    count = _count_hip if target.gpu.backend == "hip" else _count_cuda
    return count(compiled, target)


def _count_cuda(compiled: Any, target: Target) -> Resources:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        usage = _tool("cuobjdump", "--dump-resource-usage", str(path))
        code = _tool("nvdisasm", "-c", str(path))
    sizes = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    names = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", code, re.MULTILINE)
    return Resources(
        registers=sizes["REG"],
        stack_bytes=sizes["STACK"],
        shared_bytes=compiled.metadata.shared,
        matrix_instructions=sum(bool(re.match(target.matrix, name)) for name in names),
        instructions=len(names),
    )


def _count_hip(compiled: Any, target: Target) -> Resources:
    code = compiled.asm["amdgcn"]
    names = re.findall(r"^\t([a-z]\w+)", code, re.MULTILINE)

    def field(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", code)[1])  # type: ignore[index]

    return Resources(
        registers=field("vgpr_count"),
        stack_bytes=field("private_segment_fixed_size"),
        shared_bytes=compiled.metadata.shared,
        matrix_instructions=sum(bool(re.match(target.matrix, name)) for name in names),
        instructions=len(names),
    )


def _tool(name: str, *arguments: str) -> str:
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    command = [str(folder / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
