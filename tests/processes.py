"""Processes of tests that start with their imports done: they are forked from one that has them.

Importing torch, DeepSpeed, Megatron-core and transformers takes seconds. A fork server does it once
per session; each process that it forks is a new one all the same: nothing that an earlier one did
is left in it. What all share is the seed of Python's hashes: `run_ranks(..., fresh=True)` and the
true command line start from nothing.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.preloaded"])


def run_command(
    arguments: Sequence[str], environment: Mapping[str, str], stdin: str = ""
) -> CompletedProcess[str]:
    """Run `resonance` with these arguments to its end.

    Args:
        arguments: The sub-command and its flags.
        environment: All variables that it sees.
        stdin: What it reads.
    """
    with tempfile.TemporaryDirectory(prefix="resonance-command-") as folder:
        files = [Path(folder) / name for name in ("stdin", "stdout", "stderr")]
        files[0].write_text(stdin, encoding="utf-8")
        process = CONTEXT.Process(
            target=_command, args=(list(arguments), dict(environment), Path.cwd(), files)
        )
        process.start()
        try:
            process.join()
        finally:
            # a test that ran out of time leaves nobody behind
            process.kill()
        assert process.exitcode is not None
        printed = [file.read_text(encoding="utf-8") if file.exists() else "" for file in files[1:]]
        return CompletedProcess(list(arguments), process.exitcode, *printed)


def _command(
    arguments: list[str], environment: dict[str, str], folder: Path, files: list[Path]
) -> None:
    """`resonance` in this process, as a shell starts it."""
    enter(environment)
    os.chdir(folder)
    for number, (file, mode) in enumerate(zip(files, ("r", "w", "w"), strict=True)):
        with file.open(mode) as opened:
            os.dup2(opened.fileno(), number)
    sys.stdin = os.fdopen(0, closefd=False)
    from pretrain import cli

    sys.argv = ["resonance", *arguments]
    cli.main(arguments)


def enter(environment: Mapping[str, str]) -> None:
    """Take over the environment of the process that asked for this one; draw seeds of its own."""
    import numpy as np
    import torch

    os.environ.clear()
    os.environ.update(environment)
    # Python's own generator does so by itself
    torch.seed()
    np.random.seed()
