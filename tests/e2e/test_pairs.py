"""Text to text, from a table of pairs to targets and their scores: the commands."""

import json
from pathlib import Path

import pytest

from tests.conftest import SmallCorpus
from tests.e2e.commands import pretrain_on_two_ranks, resonance

WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier"}
KIND = 'source_layers = 1\n[objective]\nkind = "text_to_text"'


@pytest.fixture(scope="module")
def translator(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model that writes the German of two numbers; two ranks trained it."""
    folder = tmp_path_factory.mktemp("pairs")
    table = folder / "pairs.tsv"
    rows = [
        f"{number} {a} {b}\t{WORDS[a]} {WORDS[b]} {number}"
        for number in range(60)
        for a, b in zip(list(WORDS) * 2, [*list(WORDS)[number % 4 :], *WORDS], strict=False)
    ]
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    columns = ["--read.columns", "source", "target"]
    flags = ["--kind", "pairs", "--tokenizer", small_corpus.tokenizer, "--valid-fraction", "0.1"]
    resonance("data", "build", "--sources", table, *columns, *flags, "--output", folder / "data")
    file = small_corpus.run_file(folder / "run.toml", model=KIND, steps=12, workers=0)
    text = file.read_text().replace(str(small_corpus.train), str(folder / "data" / "train"))
    file.write_text(text.replace(str(small_corpus.valid), str(folder / "data" / "valid")))
    pretrain_on_two_ranks(file, "--train.validate-every", "6", "--optim.learning-rate", "0.01")
    return folder / "run"


def test_targets_are_learned_and_scored(translator: Path) -> None:
    records = [json.loads(x) for x in (translator / "metrics.jsonl").read_text().splitlines()]
    valid = [record["valid_loss"] for record in records if "valid_loss" in record]
    assert valid[-1] < 0.9 * valid[0]
    output = resonance("evaluate", translator, "--limit", 6)
    found = json.loads((translator / "evaluation.json").read_text())
    assert found["num_pairs"] == 6
    assert found["loss"] == pytest.approx(valid[-1], rel=1e-4)
    assert f"BLEU {found['bleu']:.2f}" in output
    assert 0.0 <= found["bleu"] <= 100.0


@pytest.mark.parametrize(
    "flags",
    [
        ("--temperature", "0"),
        ("--temperature", "0", "--beams", "3"),
        ("--beams", "4", "--beam-groups", "2", "--coverage-penalty", "0.5"),
        ("--temperature", "1", "--top-k", "5", "--repetition-penalty", "1.2"),
    ],
    ids=["greedy", "beams", "diverse", "sampling"],
)
def test_targets_are_written_by_every_method(flags: tuple[str, ...], translator: Path) -> None:
    one = resonance("generate", translator, "--prompt", "7 one two", "--max-tokens", 8, *flags)
    assert one == resonance(
        "generate", translator, "--prompt", "7 one two", "--max-tokens", 8, *flags
    )
    if flags == ("--temperature", "0"):
        # a batch of sources of other lengths changes nothing
        file = translator.parent / "sources"
        file.write_text("7 one two\n55 three four three four\n")
        lines = resonance("generate", translator, "--prompts", file, "--max-tokens", 8, *flags)
        first = json.loads(lines.splitlines()[0])
        assert first["completion"] == one.rstrip("\n")


def test_what_a_model_of_pairs_cannot_do_is_refused(translator: Path, tmp_path: Path) -> None:
    output = resonance("checkpoint", "export", translator, tmp_path / "x", status=1)
    assert "which has no exported form yet" in output
    output = resonance("chat", translator, status=1)
    assert "which continues no text" in output
