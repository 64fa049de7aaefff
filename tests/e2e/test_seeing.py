"""Analyzer, quantized folders and reports of a run that was trained, by the user's commands."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pretrain.huggingface.load import load_pretrained
from pretrain.quantization.quantize import quantize_model
from tests.conftest import SmallCorpus
from tests.e2e.commands import resonance

TEXT = "def main(argv):\n    return json.dumps(argv)\n" * 20


@pytest.fixture(scope="module")
def run(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run whose every third step was sampled."""
    folder = tmp_path_factory.mktemp("seeing")
    file = small_corpus.run_file(folder / "run.toml", workers=0)
    resonance("pretrain", file, "--monitor.every", "3")
    return folder / "run"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture(scope="module")
def quantized(run: Path) -> Path:
    text = run.parent / "calibration.txt"
    text.write_text(TEXT)
    output = run.parent / "small"
    said = resonance("checkpoint", "quantize", run, output, "--bits", "4", "--text", text)
    assert "9 weights in 4 bits" in said
    return output


def test_analysis_and_report(run: Path, text: Path) -> None:
    said = resonance("analyze", run, "--text", text)
    assert "blocks.0.mixer.filter: 4 heads" in said
    analysis = json.loads((run / "analysis.json").read_text())
    assert 0.0 < analysis["spectral_share_of_parameters"] < 0.1
    assert analysis["text"]["spectrograms"].keys() == analysis["filters"].keys()
    assert [layer["layer"] for layer in analysis["text"]["recall_maps"]] == [1]
    # training's figures are the analyzer's
    assert analysis["text"]["usage"].keys() == _spectrum(run)["filters"].keys()
    assert "1 run(s)" in resonance("report", run)
    page = (run / "report.html").read_text()
    for words in ("Impulse responses of run", "Which token wrote what is read", "Time of a step"):
        assert words in page
    kinds = [json.loads(line)["event"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert kinds == ["start", "save", "save"]


def _spectrum(run: Path) -> dict[str, Any]:
    lines = (run / "spectrum.jsonl").read_text().splitlines()
    found: dict[str, Any] = json.loads(lines[-1])
    assert found["step"] == 6
    return found


def test_sampled_figures(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    sampled = [record for record in records if "mfu" in record]
    assert [record["step"] for record in sampled] == [3, 6]
    for record in sampled:
        assert 0.0 < record["mfu"] < 1.0
        assert record["memory_bytes"] > 2**26
        assert record["seconds/backward"] > 0.0
        assert record["tokens_per_s_per_rank"] == record["tokens_per_s"]
        # the squares of the groups' norms add up to that of the whole gradient's
        kinds = record["gradient_norm/matrices"], record["gradient_norm/vectors"]
        assert sum(norm**2 for norm in kinds) == pytest.approx(record["grad_norm"] ** 2, rel=1e-4)


def test_norms_of_parameters(run: Path) -> None:
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[-2])
    model = load_pretrained(run).model
    expected = float(model.embedding.weight.detach().norm())
    assert record["parameter_norm/embedding"] == pytest.approx(expected, rel=1e-5)


def test_a_quantized_folder_computes_in_transformers(run: Path, quantized: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(quantized, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(quantized, trust_remote_code=True)
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    whole, packed = load_pretrained(run).model, load_pretrained(quantized).model
    with torch.no_grad():
        logits, same, expected = model(ids).logits, packed(ids), whole(ids)
    torch.testing.assert_close(logits, same, rtol=1e-4, atol=1e-4)
    assert float((logits - expected).abs().max()) > 1e-3
    losses = [
        float(torch.nn.functional.cross_entropy(found[0, :-1], ids[0, 1:]))
        for found in (logits, expected)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.1)
    generated = model.generate(ids[:, :8], max_new_tokens=8, do_sample=False)
    assert generated.shape == (1, 16)
    # weights are stored in their codes
    stored = {name for name, value in model.state_dict().items() if value.dtype == torch.uint8}
    assert len(stored) == 9


def test_a_quantized_folder_is_evaluated_like_others(quantized: Path, text: Path) -> None:
    assert "nats/token" in resonance("evaluate", quantized, "--text", text)


def test_bytes_come_back_as_they_were(run: Path, quantized: Path) -> None:
    """The folder's bytes are those of the codes, and quantizing again gives the same."""
    ids = load_pretrained(run).tokenizer
    model = load_pretrained(run).model
    tokens = [ids.bos_id, *ids.encode(TEXT)]
    _, names = quantize_model(model, 4, ids=tokens)
    stored = load_pretrained(quantized).model.state_dict()
    assert len(names) == 9
    for name, value in model.state_dict().items():
        assert torch.equal(value, stored[name]), name


def test_wrong_calls(run: Path, quantized: Path, tmp_path: Path) -> None:
    said = resonance("checkpoint", "quantize", run, tmp_path / "x", "--bits", "5", status=2)
    assert "5" in said
    assert "Traceback" not in said
    said = resonance("checkpoint", "quantize", run, quantized, status=1)
    assert "exists; expected a new folder" in said
    said = resonance("checkpoint", "quantize", quantized, tmp_path / "x", status=1)
    assert "is quantized already" in said
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    for command in (["analyze", run], ["checkpoint", "quantize", run, tmp_path / "x"]):
        said = resonance(*command, "--text", empty, status=1)
        assert "empty.txt" in said
        assert "Traceback" not in said
    assert not (tmp_path / "x").exists()
    assert "no such folder" in resonance("report", tmp_path / "gone", status=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 5}, "Input should be 6, 4 or 3"),
        ({"names": ["blocks.9.weight"]}, "polar.names has 'blocks.9.weight'"),
        ({"names": ["final_norm.weight"]}, "polar.names has 'final_norm.weight'"),
    ],
)
def test_hostile_tables_of_weights(
    quantized: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(quantized, tmp_path / "copy")
    table = json.loads((folder / "config.json").read_text())
    table["polar"] |= change
    (folder / "config.json").write_text(json.dumps(table))
    said = resonance("generate", folder, "--max-tokens", "1", status=1)
    assert message in said
    assert "Traceback" not in said
