"""The embedded corpus: the source of the running Python's standard library.

About 10 MB of real technical text on every machine, with no download and no licence question.
"""

import sysconfig
from pathlib import Path

NAME = "stdlib"

# third-party code, bundled wheels, and demonstrations that are mostly tests
_LEFT_OUT = {"site-packages", "dist-packages", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
_TEST_FOLDERS = {"test", "tests", "idle_test"}


def stdlib_files() -> list[Path]:
    """The non-empty modules of the standard library, sorted by relative path."""
    root = Path(sysconfig.get_path("stdlib"))
    chosen = []
    for path in root.rglob("*.py"):
        folders = set(path.relative_to(root).parts[:-1])
        if folders & _LEFT_OUT or folders & _TEST_FOLDERS or path.stat().st_size == 0:
            continue
        chosen.append(path)
    return sorted(chosen, key=lambda path: path.relative_to(root).as_posix())


def stdlib_root() -> Path:
    """The folder that the names of the corpus are relative to."""
    return Path(sysconfig.get_path("stdlib"))
