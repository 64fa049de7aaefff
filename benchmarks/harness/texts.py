"""Texts that benchmarks read: corpora next to the repository, or the standard library's source."""

import json
import lzma
import sysconfig
from pathlib import Path

from benchmarks.harness.results import ROOT

DATA = ROOT.parent / "shared" / "data"
NOVELS = DATA / "lm" / "eltec_eng.train.jsonl.xz"
BOOK = DATA / "long" / "war_and_peace.md.xz"


def long_text() -> tuple[str, bytes]:
    """Name and bytes of a text of some megabytes."""
    if BOOK.exists():
        return BOOK.name, lzma.decompress(BOOK.read_bytes())
    return "the standard library's source", b"".join(path.read_bytes() for path in _modules())


def write_small_corpus(folder: Path, name: str) -> None:
    """Write NAME.train.jsonl.xz and NAME.valid.jsonl.xz from the standard library's source."""
    texts = [path.read_text(encoding="utf-8") for path in _modules()[:40]]
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid"):
        with lzma.open(folder / f"{name}.{split}.jsonl.xz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def _modules() -> list[Path]:
    return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
