"""`resonance doctor --kernels`: resources of every GPU kernel on every supported architecture."""

import os
import sys
import warnings

import torch

from pretrain.errors import RunError

HEADER = ("kernel", "target", "registers", "stack", "shared", "matrix", "all")


def kernel_table(targets: tuple[str, ...] = ()) -> str:
    """Compile the catalogue of kernels ahead of time and lay out what the machine code needs.

    Signals are float16, spectra and states complex64. Stack and shared memory are bytes per thread
    and per program; the last two columns count instructions, those of tensor cores and all.

    Args:
        targets: Names of architectures; all that are supported if empty.

    Raises:
        RunError: The kernels were loaded for Triton's interpreter, or one does not compile or needs
            more shared memory than its target has; the message ends with the table.
    """
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        raise RunError("TRITON_INTERPRET=1: unset it, interpreted kernels cannot be compiled")
    from kernels.aot_compile import TARGETS, compile_for
    from kernels.aot_launches import convolutions, others, spectra

    rows: list[tuple[str, ...]] = [HEADER]
    problems = []
    named = convolutions(torch.float16) + others(torch.float16) + spectra()
    for target in (TARGETS[name] for name in targets or TARGETS):
        for count, (name, launch) in enumerate(named, start=1):
            if sys.stderr.isatty():
                print(f"\r{target.name} {count}/{len(named)}", end="", file=sys.stderr)
            with warnings.catch_warnings():
                # of a default that only matters for the last bit of a result
                warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
                found = compile_for(launch, target)
            rows.append((name, target.name, *(str(value) for value in found)))
            if found.shared_bytes > target.shared_bytes:
                problems.append(
                    f"{name} needs {found.shared_bytes} bytes of shared memory, {target.name} has "
                    f"{target.shared_bytes}"
                )
    table = _aligned(rows)
    if problems:
        raise RunError("\n".join(["some kernels do not fit", table, *problems]))
    return table


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
