"""A small set of labelled texts."""

import json
from pathlib import Path

from data_pipeline.build.build import build
from data_pipeline.config import BuildConfig
from tests.conftest import SmallCorpus


def labelled_texts(folder: Path, corpus: SmallCorpus) -> Path:
    """Texts of a few words whose label is their only word of three."""
    folder.mkdir(exist_ok=True)
    if not (folder / "built").exists():
        rows = [
            {
                "text": f"{n} word {('red', 'green', 'blue')[n % 3]} " + "and " * (n % 7),
                "label": n % 3,
            }
            for n in range(200)
        ]
        lines = (json.dumps(row) + "\n" for row in rows)
        (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
        build(
            BuildConfig(
                sources=(str(folder / "rows.jsonl"),),
                tokenizer=str(corpus.tokenizer),
                kind="labelled",
                output=str(folder / "built"),
                valid_fraction=0.2,
            )
        )
    return folder / "built"
