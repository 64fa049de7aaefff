"""Exported folders under the auto classes, in half precision, in shards and several at once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

from data_pipeline.tokenizer import load_tokenizer
from pretrain.huggingface.export import _write
from pretrain.huggingface.load import import_model
from spectral.lm import SpectralLM
from tests.unit.pretrain.huggingface.models import FEATURES, ids, small_config

TRUSTED: dict[str, Any] = {"trust_remote_code": True}


@pytest.fixture(scope="module", params=FEATURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    changes = FEATURES[request.param] | {"vocab_size": 259, "dim": 32, "num_layers": 2}
    model = SpectralLM(small_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    folder = tmp_path_factory.mktemp(request.param) / f"export-{request.param}"
    _write(folder, model, load_tokenizer("byte"))
    return folder


@torch.no_grad()
def test_auto_classes_load_the_same_parameters(folder: Path) -> None:
    tokens, original = ids(30), import_model(folder)
    causal = AutoModelForCausalLM.from_pretrained(folder, **TRUSTED, device_map="cpu")
    assert torch.equal(causal(tokens).logits, original(tokens))
    backbone = AutoModel.from_pretrained(folder, **TRUSTED)
    hidden = backbone(tokens).last_hidden_state
    assert torch.equal(hidden, causal.model(tokens).last_hidden_state)
    tokenizer = AutoTokenizer.from_pretrained(folder, **TRUSTED)
    # no longest length: transformers would warn of longer texts, and cut them
    assert tokenizer.model_max_length > 1e9
    features = pipeline("feature-extraction", model=backbone, tokenizer=tokenizer)("a text")
    assert torch.tensor(features).shape == (1, 7, 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_folders_load_in_half_precision(folder: Path, dtype: torch.dtype) -> None:
    tokens = ids(60, rows=4)
    whole = AutoModelForCausalLM.from_pretrained(folder, **TRUSTED)
    half = AutoModelForCausalLM.from_pretrained(folder, **TRUSTED, dtype=dtype)
    small = {n for n, p in half.named_parameters() if p.dtype == torch.float32}
    assert any("norm" in name for name in small)
    assert not any("proj" in n and "decay" not in n for n in small)
    # the same whichever way a model became half
    converted = {n for n, p in whole.to(dtype).named_parameters() if p.dtype == torch.float32}
    assert converted == small
    whole = AutoModelForCausalLM.from_pretrained(folder, **TRUSTED)
    loss = half(tokens, labels=tokens).loss
    assert abs(float(loss - whole(tokens, labels=tokens).loss)) < 0.01


def test_a_fine_tuned_copy_and_its_base_share_a_process(folder: Path, tmp_path: Path) -> None:
    tokens = ids(30)
    base = AutoModelForCausalLM.from_pretrained(folder, **TRUSTED)
    expected = base(tokens).logits
    tuned = AutoModelForCausalLM.from_pretrained(folder, **TRUSTED)
    with torch.no_grad():
        tuned.get_input_embeddings()(tokens)
        next(tuned.parameters()).mul_(1.5)
    tuned.save_pretrained(tmp_path / "tuned", max_shard_size="20KB")
    shards = list((tmp_path / "tuned").glob("*.safetensors"))
    assert len(shards) > 1
    shutil.copytree(folder, tmp_path / "copy")
    for other in (tmp_path / "tuned", tmp_path / "copy"):
        loaded = AutoModelForCausalLM.from_pretrained(other, **TRUSTED)
        assert type(loaded) is not type(base)
        loaded(tokens, labels=tokens).loss.backward()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned", **TRUSTED)
    assert torch.equal(loaded(tokens).logits, tuned(tokens).logits)
    assert torch.equal(import_model(tmp_path / "tuned")(tokens), tuned(tokens).logits)
    base(tokens, labels=tokens).loss.backward()
    assert torch.equal(base(tokens).logits, expected)


def test_the_configuration_names_every_class(folder: Path) -> None:
    table = json.loads((folder / "config.json").read_text())
    assert set(table["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}


@pytest.mark.slow
# dynamo does so itself
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_gives_the_same_losses_and_gradients(folder: Path) -> None:
    tokens, results = ids(24, rows=2), []
    for compiled in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder, **TRUSTED)
        run = torch.compile(model, backend="aot_eager") if compiled else model
        loss = run(tokens, labels=tokens).loss
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
