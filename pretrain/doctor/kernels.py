"""`resonance doctor --kernels`: resources of every GPU kernel on every supported architecture."""

import os
import sys
import warnings

import torch

from pretrain.errors import RunError

HEADER = ("kernel", "target", "registers", "stack", "shared", "matrix", "all")


def kernel_table(targets: tuple[str, ...] = ()) -> str:
    """A table of the resources of every kernel, compiled ahead of time.

    Signals are float16, spectra and states complex64. Stack and shared memory are bytes per thread
    and per program; the last two columns count instructions, those of tensor cores and all.

    Args:
        targets: Names of architectures; empty for all that are supported.

    Raises:
        RunError: The kernels were loaded for Triton's interpreter, or one needs more shared memory
            than its target has; the message contains the table.
    """
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        raise RunError("TRITON_INTERPRET=1: unset it, interpreted kernels cannot be compiled")
    from kernels.aot_compile import TARGETS, compile_for, named_launches

    rows: list[tuple[str, ...]] = [HEADER]
    problems = []
    named = named_launches(torch.float16)
    for target in (TARGETS[name] for name in targets or TARGETS):
        for count, (name, launch) in enumerate(named.items(), start=1):
            if sys.stderr.isatty():
                print(f"\r{target.name} {count}/{len(named)}", end="", file=sys.stderr)
            with warnings.catch_warnings():
                # about a default that only affects the last bit of a result
                warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
                needed = compile_for(launch, target)
            rows.append((name, target.name, *(str(value) for value in needed)))
            if needed.shared_bytes > target.shared_bytes:
                problems.append(
                    f"{name} needs {needed.shared_bytes} bytes of shared memory, {target.name} has "
                    f"{target.shared_bytes}"
                )
    table = aligned(rows)
    if problems:
        raise RunError("\n".join(["some kernels do not fit", table, *problems]))
    return table


def aligned(rows: list[tuple[str, ...]]) -> str:
    """A table whose first two columns are words."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
