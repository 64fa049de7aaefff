"""Memory that a process on CPU has freed and asks for again.

glibc gives every large block back to the system when it is freed; the next one comes as new pages
which the kernel must clear. For sequences of 204,800 tokens that costs more time than all
arithmetic (`python -m benchmarks.mixer` measures both). Told to keep freed memory, glibc is fast,
but its one heap falls to pieces: a process holds three times what its tensors do.

mimalloc (Leijen et al. 2019, MSR-TR-2019-18) keeps freed memory and stays compact (1.7 times, in
`python -m benchmarks.allocator`), but must be there before the process starts, and is not for one
that forks while it has threads: mimalloc 3 registers nothing with pthread_atfork, so a child may
wait forever for a lock that another thread held. Ranks are started with it only by those who ask
for it (docs/layouts.md).
"""

import ctypes
import importlib.metadata
import os

# parameters of mallopt(3), from glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES, _NEVER = 64 << 20, 2**31 - 1


def allocator_environment() -> dict[str, str]:
    """Variables with which processes are started that are to allocate by mimalloc.

    None where it is not installed or another library is preloaded already.
    """
    try:
        files = importlib.metadata.files("cmeel-mimalloc") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    paths = [str(file.locate()) for file in files if file.name == "libmimalloc.so"]
    # ld.so takes a list
    if "LD_PRELOAD" in os.environ or not paths or set(paths[0]) & {" ", ":"}:
        return {}
    return {"LD_PRELOAD": paths[0], "MIMALLOC_PURGE_DELAY": "-1"}


def reuse_freed_memory() -> bool:
    """Keep freed memory for what is allocated next, in a process that was started without mimalloc.

    A C library without mallopt stays as it is.

    Returns:
        Whether it was done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
