"""Evaluation during training: figures are the checkpoint's, and training is undisturbed."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.huggingface.load import load_pretrained
from pretrain.monitoring.jsonl import read_metrics
from pretrain.parallel.layout_checks import check_layout
from pretrain.run_checks import check_run
from pretrain.run_file import load_run
from tests.conftest import SmallCorpus
from tests.e2e.commands import resonance

# the length of the corpus's runs
WINDOW = 96
TEXT = Path(json.__file__).parent / "scanner.py"
TASK = """
task: choices
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
metadata:
  version: 1
"""
ROWS = [
    {"question": "import ", "choices": ["json", "#%&", "~~~"], "answer": 0},
    {"question": "def ", "choices": ["@!", "py_scanstring", ")("], "answer": 1},
    {"question": "return ", "choices": ["None", "((((", "]]"], "answer": 0},
]


CONSTANT = ("--optim.schedule", "constant")


def _run(corpus: SmallCorpus, folder: Path, evaluate: str = "") -> Path:
    file = corpus.run_file(folder / "run.toml", workers=0)
    file.write_text(file.read_text() + evaluate)
    return file


def _records(folder: Path, key: str) -> dict[int, dict[str, Any]]:
    records = read_metrics(folder / "run" / "metrics.jsonl")
    return {int(record["step"]): dict(record) for record in records if key in record}


@pytest.fixture(scope="module")
def evaluated(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a text and a task, which is resumed at step 4."""
    folder = tmp_path_factory.mktemp("evaluated")
    data, task = folder / "rows.jsonl", folder / "choices.yaml"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    task.write_text(TASK.format(data=data))
    table = f'\n[evaluate]\nevery = 2\ntexts = ["{TEXT}"]\ntasks = ["{task}"]\n'
    file = _run(small_corpus, folder, table)
    resonance("pretrain", file, "--train.steps", "4", *CONSTANT)
    resonance("pretrain", file, "--resume", *CONSTANT)
    return folder


def test_training_does_not_notice(
    evaluated: Path, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    resonance("pretrain", _run(small_corpus, tmp_path), *CONSTANT)
    plain, measured = _records(tmp_path, "loss"), _records(evaluated, "loss")
    assert sorted(_records(evaluated, "eval_seconds")) == [2, 4, 6]
    assert sorted(plain) == sorted(measured) == [1, 2, 3, 4, 5, 6]
    for step, record in plain.items():
        for key in ("loss", "grad_norm"):
            assert record[key] == measured[step][key]
    # the last validation read the same parameters
    valid = [_records(folder, "valid_loss")[6]["valid_loss"] for folder in (tmp_path, evaluated)]
    assert valid[0] == valid[1]


def test_figures_are_those_of_the_checkpoint(evaluated: Path) -> None:
    record, run = _records(evaluated, "eval_seconds")[6], evaluated / "run"
    loaded, text = load_pretrained(run), TEXT.read_text()
    tokens = torch.tensor([loaded.tokenizer.bos_id, *loaded.tokenizer.encode(text)])
    losses = []
    with torch.no_grad():
        for begin in range(0, len(tokens) - 1, WINDOW):
            inputs, labels = (tokens[first : first + WINDOW] for first in (begin, begin + 1))
            logits = loaded.model(inputs[None, : len(labels)])[0]
            losses.append(F.cross_entropy(logits, labels, reduction="none"))
    nll_T = torch.cat(losses)
    assert record["eval_scanner_loss"] == pytest.approx(float(nll_T.mean()), rel=1e-5)
    bits = float(nll_T.sum()) / len(text.encode()) / math.log(2.0)
    assert record["eval_scanner_bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    printed = resonance("evaluate", run, "--tasks", evaluated / "choices.yaml")
    found = re.search(r"choices: acc ([\d.]+)", printed)
    assert found, printed
    assert record["eval_choices_acc"] == pytest.approx(float(found[1]), abs=1e-6)


def test_an_interrupted_evaluation_is_repeated(evaluated: Path) -> None:
    file = evaluated / "run" / "metrics.jsonl"
    before = _records(evaluated, "eval_seconds")[6]
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(
        "".join(line for line in lines if not ("eval_" in line and '"step": 6' in line))
    )
    assert 6 not in _records(evaluated, "eval_seconds")
    resonance("pretrain", evaluated / "run.toml", "--resume", *CONSTANT)
    after = _records(evaluated, "eval_seconds")[6]
    assert after | {"eval_seconds": 0} == before | {"eval_seconds": 0}


def test_what_cannot_be_measured_is_refused(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    run = load_run(_run(small_corpus, tmp_path, '\n[evaluate]\nevery = 2\ntasks = ["arc_easy"]\n'))
    for parallel in ({"tensor": 2}, {"pipeline": 2}, {"sequence": 2}, {"zero_stage": 3}):
        split = run.model_copy(update={"parallel": run.parallel.model_copy(update=parallel)})
        with pytest.raises(
            RunError, match=r"evaluate\.tasks with parallel\.\w+ \d; expected ranks"
        ):
            check_layout(split, 2)
    missing = _run(small_corpus, tmp_path, '\n[evaluate]\nevery = 2\ntexts = ["none.txt"]\n')
    with pytest.raises(RunError, match=r"evaluate\.texts: none\.txt is no file"):
        check_run(load_run(missing), 1)
    encoder = {"model": {"causal": False}, "objective": {"kind": "masked_token"}}
    with pytest.raises(
        ValueError, match=r"evaluate\.every is 2 with objective\.kind 'masked_token'"
    ):
        RunConfig.model_validate(encoder | {"evaluate": {"every": 2, "texts": [TEXT]}})
    for table, message in (
        ("every = 2", "no evaluate.texts and no evaluate.tasks"),
        (
            'every = 2\ntexts = ["a/x.txt", "b/x.md"]',
            "2 files whose metrics would be named eval_x_",
        ),
    ):
        with pytest.raises(RunError, match=message):
            load_run(_run(small_corpus, tmp_path, f"\n[evaluate]\n{table}\n"))
