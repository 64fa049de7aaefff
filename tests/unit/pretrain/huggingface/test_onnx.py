"""A step without complex numbers, and the same in ONNX Runtime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from data_pipeline.tokenizer import load_tokenizer
from pretrain.commands import ExportCommand
from pretrain.errors import RunError
from pretrain.huggingface.export import _write, export
from pretrain.huggingface.onnx_export import OnnxDecoder, write_onnx
from pretrain.huggingface.wrap import wrap
from spectral.backbone import LMState
from spectral.lm import SpectralLM
from spectral.real_step import RealStep, empty_state, real_state
from tests.unit.pretrain.huggingface.models import ids, small_config

MODELS: dict[str, dict[str, Any]] = {
    "heads": {},
    "mixed heads": {"conv_heads": (2,), "feed_forward": "experts"},
    "wavelet": {"mixers": ("wavelet", "heads"), "embedding": "harmonic"},
    "frequency": {"feed_forward": "frequency"},
}
BYTES = load_tokenizer("byte")


def _model(**changes: Any) -> SpectralLM:
    torch.manual_seed(0)
    model = SpectralLM(small_config(**({"vocab_size": 259} | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_real_step_equals_the_step(name: str) -> None:
    model = _model(**MODELS[name])
    step, tokens = RealStep(model), ids(40, rows=3)
    _, prefilled = model.prefill(tokens[:, :20])
    # and far from the beginning, where phases are long
    for first in (20, 200_000):
        expected = LMState(first, prefilled.layers)
        state = real_state(expected)
        for t in range(20):
            wanted, expected = model.step(tokens[:, 20 + t], expected)
            logits, *state = step(tokens[:, 20 + t], torch.tensor([first + t]), *state)
            torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=0.0)
    state = empty_state(model, 3)
    for t in range(40):
        logits, *state = step(tokens[:, t], torch.tensor([t]), *state)
    torch.testing.assert_close(logits, model(tokens)[:, -1], atol=1e-5, rtol=0.0)


@pytest.fixture(scope="module", params=["mixed heads", "wavelet"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SpectralLM, Path]:
    model = _model(**MODELS[request.param])
    folder = tmp_path_factory.mktemp("onnx")
    write_onnx(model, BYTES, folder)
    return model, folder


@torch.no_grad()
def test_onnx_runtime_generates_what_transformers_does(
    exported: tuple[SpectralLM, Path],
) -> None:
    model, folder = exported
    prompt, count = ids(100), 1_000
    options = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None}
    expected = wrap(model, BYTES).generate(
        prompt, attention_mask=torch.ones_like(prompt), **options
    )
    found = OnnxDecoder(folder).greedy(prompt.numpy(), count, BYTES.vocab_size)
    assert found[0].tolist() == expected[0, 100:].tolist()
    # a model that says one thing only would show nothing
    assert len(set(found[0].tolist())) > 3


@torch.no_grad()
def test_onnx_runtime_continues_far_from_the_beginning(
    exported: tuple[SpectralLM, Path],
) -> None:
    model, folder = exported
    _, state = model.prefill(ids(50, rows=3))
    state = LMState(200_000, state.layers)
    decoder = OnnxDecoder(folder, batch=3)
    decoder.position, decoder.state = 200_000, [tensor.numpy() for tensor in real_state(state)]
    token = torch.tensor([5, 6, 7])
    for _ in range(50):
        logits, state = model.step(token, state)
        found = torch.from_numpy(decoder.step(token.numpy()))
        torch.testing.assert_close(found, logits, atol=1e-4, rtol=0.0)
        token = logits.argmax(-1)


def test_the_folder_says_what_a_program_needs(exported: tuple[SpectralLM, Path]) -> None:
    model, folder = exported
    table = json.loads((folder / "interface.json").read_text())
    shapes = [tuple(entry["shape"]) for entry in table["state"]]
    assert shapes == [tuple(tensor.shape[1:]) for tensor in empty_state(model)]
    assert (table["vocab_size"], table["eos_token_id"]) == (259, BYTES.eos_id)
    assert AutoTokenizer.from_pretrained(folder).encode("a") == [BYTES.bos_id, 97]
    # nothing in the state grows
    decoder = OnnxDecoder(folder)
    sizes = {sum(part.size for part in decoder.state)}
    for _ in range(3):
        decoder.step(np.array([7]))
        sizes.add(sum(part.size for part in decoder.state))
    assert len(sizes) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixers": ("fft",)}, "model.mixers: FFTMixer has no step .* expected heads or wavelet"),
        ({"gates": {"bands": True}}, "model.gates: gates have no step .* expected none of them"),
        ({"recall_rule": "delta"}, "model.recall_rule, .*: expected their defaults"),
    ],
    ids=["fft", "gates", "delta"],
)
def test_models_without_a_real_step_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    _write(tmp_path / "model", _model(**changes), BYTES)
    command = ExportCommand(checkpoint=tmp_path / "model", output=tmp_path / "out", format="onnx")
    with pytest.raises(RunError, match=f"--format onnx: {message}"):
        export(command)
    assert not (tmp_path / "out").exists()


def test_the_command_compares_before_it_writes(tmp_path: Path, monkeypatch: Any) -> None:
    _write(tmp_path / "model", _model(), BYTES)
    command = ExportCommand(checkpoint=tmp_path / "model", output=tmp_path / "out", format="onnx")
    printed = str(export(command))
    assert "64 greedy tokens are equal" in printed
    assert (tmp_path / "out" / "model.onnx").is_file()
    forward = RealStep.forward

    def forgetful(self: RealStep, token: Any, position: Any, *state: Any) -> Any:
        return forward(self, token, position * 0, *state)

    monkeypatch.setattr(RealStep, "forward", forgetful)
    again = command.model_copy(update={"output": tmp_path / "again"})
    with pytest.raises(RunError, match=r"logits of ONNX Runtime differ by .*; expected 1e-04"):
        export(again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]
