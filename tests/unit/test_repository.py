"""Rules for the repository's own files."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARIES = ("pretrain", "spectral", "kernels", "launch", "data_pipeline")
PACKAGES = (*LIBRARIES, "tests", "benchmarks")
MAX_LINES = 300

NO_TORCH = re.compile(r"\bimports\s+(?:no|neither)\s+torch\b", re.IGNORECASE)
BLOCKED = ("torch", "deepspeed", "megatron", "transformers", "triton")
# commands that a login node runs, where torch need not be installed
LOGIN_NODE = (
    "pretrain.cli",
    "data_pipeline.build.build",
    "data_pipeline.build.train_tokenizer",
    "data_pipeline.shards.stats",
    "data_pipeline.shards.verify",
    "data_pipeline.stream.mixture",
)
IMPORT_WITHOUT = """
import importlib, sys
blocked, modules = (argument.split(",") for argument in sys.argv[1:])
sys.modules.update(dict.fromkeys(blocked))
failed = False
for module in modules:
    try:
        importlib.import_module(module)
    except ImportError as error:
        failed = True
        print(f"{module}: {error}")
sys.exit(failed)
"""


def _sources(packages: tuple[str, ...] = PACKAGES) -> list[Path]:
    return [path for package in packages for path in (ROOT / package).rglob("*.py")]


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules_without_torch() -> list[str]:
    """Modules whose docstring, or whose package's docstring, promises that they import no torch."""
    sources = {_module_name(path): path for path in _sources(LIBRARIES)}
    promises = [
        name
        for name, path in sources.items()
        if NO_TORCH.search(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    ]
    return sorted(
        name
        for name in sources
        if any(name == promise or name.startswith(f"{promise}.") for promise in promises)
    )


def _import_without(blocked: tuple[str, ...], modules: list[str]) -> tuple[int, str]:
    """Exit status and output of a process that imports modules while others are blocked."""
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT, ",".join(blocked), ",".join(modules)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return result.returncode, result.stdout + result.stderr


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _sources()}
    assert len(lengths) > 50
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_package_init_files_hold_a_docstring_only() -> None:
    for path in _sources():
        if path.name == "__init__.py":
            text = path.read_text(encoding="utf-8").strip()
            assert text.startswith('"""'), path
            assert text.endswith('"""'), path
            assert text.count('"""') == 2, path


def test_every_folder_of_a_package_has_an_init_file() -> None:
    folders = {path.parent for path in _sources(LIBRARIES)}
    assert {folder for folder in folders if not (folder / "__init__.py").exists()} == set()


def test_modules_that_promise_it_import_no_torch() -> None:
    promised = _modules_without_torch()
    # some promise by their own docstring, some by their package's
    assert {"spectral.config", "pretrain.checkpoint.manifest", "launch.slurm.script"} <= set(
        promised
    )
    status, output = _import_without(BLOCKED, [*promised, *LOGIN_NODE])
    assert status == 0, output


def test_an_import_of_torch_would_be_noticed() -> None:
    status, output = _import_without(BLOCKED, ["launch.config", "spectral.lm"])
    assert status == 1
    assert "spectral.lm: import of torch halted" in output
    assert "launch.config" not in output
