"""What the documentation names must exist: files, terms, messages."""

import ast
import re
from pathlib import Path

import pytest

from pretrain.cli import COMMANDS

ROOT = Path(__file__).parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SOURCES = ("pretrain", "spectral", "kernels", "launch", "data_pipeline")
FOLDERS = (*SOURCES, "tests", "benchmarks", "docs")
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)")
MODULE = re.compile(r"\bpython -m ([a-z_.]+)")
TARGET = re.compile(r"^make ([a-z][a-z-]*)")
# "a|b" names several sub-commands
CALL = re.compile(r"^resonance ([a-z|]+(?: [a-z|]+)?)")
CELL = re.compile(r"^\| ([^|]+) \|")


def _rows(text: str, heading: str = "") -> list[str]:
    """The first cells of the tables below a heading, without those tables' own headings."""
    section = text.partition(heading)[2].partition("\n## ")[0] if heading else text
    lines = section.splitlines()
    return [
        match[1].strip()
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if (match := CELL.match(line)) and not match[1].startswith("---")
        if not following.startswith("| ---")
    ]


def _code(text: str) -> list[str]:
    """Code spans, and lines of indented and fenced blocks."""
    blocks = FENCED.findall(text)
    prose = FENCED.sub("", text)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^    (.*)$", prose, re.MULTILINE)
    return lines + [" ".join(span.split()) for span in SPAN.findall(prose)]


def _files_named(text: str) -> set[str]:
    """Paths of this repository in code; words that hold NAME are the reader's to choose."""
    words = {word.strip(",;:") for code in _code(text) for word in code.split()}
    return {
        word
        for word in words
        if word.startswith(tuple(f"{folder}/" for folder in FOLDERS)) or word.endswith(".py")
        if "NAME" not in word
    }


def _is_there(name: str) -> bool:
    """Whether a path exists; of a bare file name, whether some folder has such a file."""
    if "/" in name:
        return (ROOT / name).exists()
    return any(any((ROOT / folder).rglob(name)) for folder in FOLDERS)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_files_that_a_page_names_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    missing = {name for name in _files_named(text) if not _is_there(name)}
    links = {link for link in LINK.findall(text) if "://" not in link}
    missing |= {link for link in links if not (path.parent / link).exists()}
    assert missing == set()


def test_a_file_that_is_missing_would_be_noticed() -> None:
    text = "`spectral/gone.py`, `python benchmarks/gone.py`, `test_gone.py`, `kernels/NAME/op.py`"
    assert _files_named(text) == {"spectral/gone.py", "benchmarks/gone.py", "test_gone.py"}
    assert not any(map(_is_there, _files_named(text)))
    assert _is_there("spectral/lm.py")
    assert _is_there("reference.py")


def _is_command(name: str) -> bool:
    """Whether words are a sub-command, the group of some, or one with an argument after it."""
    first = name.split()[0]
    groups = {command.split()[0] for command in COMMANDS}
    return name in COMMANDS or first in COMMANDS or (name == first and name in groups)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_that_a_page_names_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    codes = _code(text)
    modules = {name for code in codes for name in MODULE.findall(code)}
    modules = {name for name in modules if name.split(".")[0] in FOLDERS}
    targets = {name for code in codes for name in TARGET.findall(code)}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    missing = {f"make {name}" for name in targets if f"\n{name}:" not in makefile}
    for name in modules:
        file = ROOT / name.replace(".", "/")
        if not (file.is_dir() or file.with_suffix(".py").exists()):
            missing.add(f"python -m {name}")
    for call in (call for code in codes for call in CALL.findall(code)):
        first, _, second = call.partition(" ")
        names = [f"{one} {two}".strip() for one in first.split("|") for two in second.split("|")]
        missing |= {f"resonance {name}" for name in names if not _is_command(name)}
    assert missing == set()


def test_terms_of_the_glossary_are_used() -> None:
    glossary = ROOT / "docs" / "glossary.md"
    files = [path for folder in (*SOURCES, "docs") for path in (ROOT / folder).rglob("*")]
    text = " ".join(
        path.read_text(encoding="utf-8")
        for path in files
        if path.suffix in (".py", ".md") and path != glossary
    ).lower()
    words = " ".join(re.split(r"[\s_]+", text))
    terms = [cell.strip("`") for cell in _rows(glossary.read_text(encoding="utf-8"))]
    assert len(terms) > 40
    plain = [re.sub(r" \(.*\)", "", term).lower().replace("_", " ") for term in terms]
    # a plural counts, a part of another word does not
    assert [term for term in plain if not re.search(rf"\b{re.escape(term)}s?\b", words)] == []


def _messages() -> list[str]:
    """Every text of the trainer's code and of the data's position, {} for what is filled in."""
    files = [*(ROOT / "pretrain").rglob("*.py"), ROOT / "data_pipeline" / "stream" / "mixture.py"]
    messages = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
                messages.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                messages.append(node.value)
    return messages


def test_messages_in_the_table_of_refused_checkpoints_exist() -> None:
    text = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    cells = _rows(text, "## Refused checkpoints")
    assert len(cells) > 20
    named = [message for cell in cells for message in SPAN.findall(cell)]
    messages = _messages()

    def is_there(message: str) -> bool:
        parts = [re.escape(part) for part in re.split(r"\.\.\.|\{\}", message)]
        return any(re.search(".*".join(parts), text, re.DOTALL) for text in messages)

    assert [message for message in named if not is_there(message)] == []
