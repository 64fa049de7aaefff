"""`resonance evaluate` on text files, and lm-eval's tasks, which must agree."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pretrain.evaluation.text import carried_nll, sliding_nll
from pretrain.huggingface.load import load_pretrained
from spectral.config import ModelConfig
from spectral.gates.config import GatesConfig
from spectral.lm import SpectralLM
from tests.conftest import SmallCorpus
from tests.e2e.commands import resonance

SOURCES = sorted(Path(json.__file__).parent.glob("*.py"))[:2]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
{body}
metadata:
  version: 1
"""


@pytest.fixture(scope="module")
def trained(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_file = small_corpus.run_file(
        tmp_path_factory.mktemp("trained") / "run.toml", steps=6, micro_batch_size=4
    )
    resonance("pretrain", run_file)
    return run_file.parent / "run"


@pytest.mark.parametrize("gates", [False, True])
def test_a_carried_state_sees_everything_and_windows_see_themselves(gates: bool) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=64,
        dim=32,
        num_layers=2,
        num_heads=4,
        num_modes=4,
        conv_chunk=16,
        recall_chunk=8,
        ffn_dim=48,
        gates=GatesConfig(bands=gates),
    )
    model = SpectralLM(config).eval()
    tokens = torch.randint(64, (101,))
    with torch.no_grad():
        whole = F.cross_entropy(model(tokens[None, :-1])[0], tokens[1:], reduction="none")
        for window in (1, 16, 40, 1_000):
            found = carried_nll(model, tokens, window)
            torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
        torch.testing.assert_close(sliding_nll(model, tokens, 100, 7), whole, atol=1e-5, rtol=0)
        found = sliding_nll(model, tokens, 20, 5)
        assert found.shape == (100,)
        logits = model(tokens[None, 60:80])[0, -5:]
        expected = F.cross_entropy(logits, tokens[76:81], reduction="none")
        torch.testing.assert_close(found[75:80], expected, atol=1e-5, rtol=0)


def _nll(printed: str, name: str) -> tuple[float, float]:
    found = re.search(rf"{re.escape(name)}: .* ([\d.]+) nats/token, .* ([\d.]+) bits/byte", printed)
    assert found, printed
    return float(found[1]), float(found[2])


def test_lm_eval_agrees(trained: Path, tmp_path: Path) -> None:
    printed = resonance("evaluate", trained, "--text", *SOURCES)
    _, bits = _nll(printed, "all")
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": f.read_text()}) + "\n" for f in SOURCES))
    rolling = tmp_path / "rolling.yaml"
    body = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
"""
    rolling.write_text(TASK.format(name="rolling", data=data, body=body))
    found = resonance("evaluate", trained, "--tasks", rolling)
    value = re.search(r"rolling: bits_per_byte ([\d.]+)", found)
    assert value, found
    assert float(value[1]) == pytest.approx(bits, abs=1e-4)
    sliding = resonance("evaluate", trained, "--text", *SOURCES, "--state", "sliding")
    assert _nll(sliding, str(SOURCES[0]))[1] > 0


def test_lm_eval_scores_choices(trained: Path, tmp_path: Path) -> None:
    data = tmp_path / "choices.jsonl"
    questions = [("import js", ["on", "qq"], 0), ("    retu", ["zzz", "rn"], 1)]
    data.write_text(
        "".join(json.dumps({"q": q, "choices": c, "gold": g}) + "\n" for q, c, g in questions)
    )
    body = """
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
target_delimiter: ""
metric_list:
  - metric: acc
"""
    task = tmp_path / "choices.yaml"
    task.write_text(TASK.format(name="choices", data=data, body=body))
    found = re.search(r"choices: acc ([\d.]+)", resonance("evaluate", trained, "--tasks", task))
    assert found
    loaded = load_pretrained(trained)
    correct = 0
    for question, choices, gold in questions:
        scores = []
        for choice in choices:
            # as lm-eval splits a text into context and continuation
            start = loaded.tokenizer.encode(question)
            ids = loaded.tokenizer.encode(question + choice)
            tokens = torch.tensor([loaded.tokenizer.bos_id, *start, *ids[len(start) :]])
            nll = carried_nll(loaded.model, tokens, 64)
            scores.append(-float(nll[len(start) :].sum()))
        correct += scores[gold] == max(scores)
    assert float(found[1]) == correct / len(questions)


def test_wrong_calls_are_explained(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "bad.yaml").write_text("- no task")
    for flags, message in (
        (["--text", tmp_path / "bad.txt"], "expected UTF-8 text"),
        (["--text", tmp_path / "none.txt"], "none.txt"),
        (["--tasks", "no_such_task"], "lm-eval knows no no_such_task"),
        (["--tasks", tmp_path / "bad.yaml"], "expected a task of lm-eval"),
        (["--text", SOURCES[0], "--state", "sliding", "--stride", "999"], "expected at most"),
        (["--text", SOURCES[0], "--tasks", "x"], "expected one of them"),
    ):
        printed = resonance("evaluate", trained, *flags, status=1)
        assert message in printed
        assert "Traceback" not in printed


def test_perplexity_is_the_exponential(trained: Path) -> None:
    printed = resonance("evaluate", trained, "--text", SOURCES[0])
    found = re.search(r"([\d.]+) nats/token, perplexity ([\d.]+)", printed)
    assert found
    assert float(found[2]) == pytest.approx(math.exp(float(found[1])), rel=1e-3)
