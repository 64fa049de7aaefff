"""Reuse of freed memory by processes on the CPU.

glibc returns every large block to the system when it is freed; the next block consists of new pages
that the kernel must clear. For sequences of 204,800 tokens that costs more time than all arithmetic
(`python -m benchmarks.mixer` measures both). If glibc keeps freed memory it is fast, but its single
heap fragments: a process holds three times the memory of its tensors.

mimalloc (Leijen et al. 2019, MSR-TR-2019-18) keeps freed memory and stays compact (1.7 times, in
`python -m benchmarks.allocator`), but must be preloaded when the process starts, and does not suit
a process that forks while it has threads: mimalloc 3 registers nothing with pthread_atfork, so a
child may wait forever for a lock that another thread held. Ranks use it only on request
(docs/layouts.md).
"""

import ctypes
import importlib.metadata
import os

# parameters of mallopt(3), from glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_TOP_PAD_BYTES, _LARGE_BYTES, _NEVER = 64 << 20, 1 << 20, 2**31 - 1


def allocator_environment() -> dict[str, str]:
    """Environment variables that make a new process allocate with mimalloc.

    Empty if mimalloc is not installed or another library is preloaded already.
    """
    try:
        files = importlib.metadata.files("cmeel-mimalloc") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    paths = [str(file.locate()) for file in files if file.name == "libmimalloc.so"]
    # ld.so splits the variable at spaces and colons
    if "LD_PRELOAD" in os.environ or not paths or set(paths[0]) & {" ", ":"}:
        return {}
    return {"LD_PRELOAD": paths[0], "MIMALLOC_PURGE_DELAY": "-1"}


def return_freed_memory() -> bool:
    """Make glibc return every large block when it is freed: for the start and load of a model.

    By default glibc treats blocks as small up to the largest that was freed so far, and keeps them.

    Returns:
        Whether it succeeded; False for a C library without mallopt.
    """
    return _configure((_MMAP_THRESHOLD, _LARGE_BYTES))


def reuse_freed_memory() -> bool:
    """Make glibc keep freed memory, in a process that was started without mimalloc.

    Returns:
        Whether it succeeded; False for a C library without mallopt.
    """
    return _configure((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _TOP_PAD_BYTES))


def _configure(*settings: tuple[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in settings)
