"""One style of docstrings: the first line names the value, or is an imperative."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("pretrain", "spectral", "kernels", "launch", "data_pipeline")
# not in this style yet
EXEMPT = {"pretrain", "spectral", "kernels"}
BAD_START = re.compile(r"(Returns?|Yields?|Tells?|What|One)\b")


def bad_docstrings(source: str) -> Iterator[str]:
    """Line and start of every docstring of a module, class or function in another style."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            if BAD_START.match(docstring):
                yield f"{getattr(node, 'lineno', 1)}: {docstring.splitlines()[0]}"


@pytest.mark.parametrize("package", [name for name in PACKAGES if name not in EXEMPT])
def test_docstrings_name_what_they_describe(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 10
    bad = [
        f"{path.relative_to(ROOT)}:{text}"
        for path in files
        for text in bad_docstrings(path.read_text(encoding="utf-8"))
    ]
    assert bad == []


@pytest.mark.parametrize("start", ["Return", "Returns", "Yield", "Tell", "What", "One"])
@pytest.mark.parametrize(
    "source",
    [
        '"""{} a number."""\n',
        'class Number:\n    """{} a number."""\n',
        'def number():\n    """{} a number."""\n',
        'class Number:\n    async def number(self):\n        """{} a number."""\n',
    ],
)
def test_other_styles_are_found(source: str, start: str) -> None:
    assert len(list(bad_docstrings(source.format(start)))) == 1
    assert list(bad_docstrings(source.format("Oneness of"))) == []
