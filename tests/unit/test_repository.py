"""Rules for the repository's own files."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("pretrain", "spectral", "kernels", "launch", "data_pipeline", "tests", "benchmarks")
MAX_LINES = 500


def _sources() -> list[Path]:
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_no_file_is_longer_than_500_lines() -> None:
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
