"""A model with every feature on goes through training, exact resumption, export and generation."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.conftest import SmallCorpus
from tests.e2e.commands import pretrain_on_two_ranks, resonance

EVERYTHING = """
embedding = "harmonic"
feed_forward = "frequency"

[model.gates]
bands = true
soft_threshold = true
phase_functions = true
cross_head = true
magnitude_mixing = true
residual = true
selection = true
frequency_dropout = 0.1
entropy_weight = 0.01
consistency_weight = 0.1
"""


MIXERS = """
mixers = ["fft", "wavelet", "heads"]
feed_forward = "experts"

[model.fft]
chunk = 16

[model.gates]
bands = true

[model.experts]
count = 4
"""
MODELS = {"plain": "", "everything": EVERYTHING, "mixers": MIXERS}


@pytest.fixture(scope="module", params=MODELS)
def trained(
    request: pytest.FixtureRequest,
    small_corpus: SmallCorpus,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    model = MODELS[request.param]
    run_file = small_corpus.run_file(folder / "run.toml", model=model, workers=0, steps=6)
    pretrain_on_two_ranks(run_file)
    return folder / "run"


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    output = trained.parent / "exported"
    resonance("checkpoint", "export", trained, output)
    return output


@pytest.fixture(scope="module")
def loaded(exported: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True)


def test_random_features_resume_exactly(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-0000006")
    text = (trained.parent / "run.toml").read_text()
    text = text.replace(json.dumps(str(trained)), json.dumps(str(tmp_path / "run")))
    (tmp_path / "again.toml").write_text(text)
    pretrain_on_two_ranks(tmp_path / "again.toml", "--resume")

    def losses(run: Path) -> list[object]:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return [
            [r.get("loss"), r.get("auxiliary_loss"), r.get("valid_loss")]
            for r in map(json.loads, lines)
        ]

    assert losses(tmp_path / "run") == losses(trained)


def test_cached_generation_equals_uncached(loaded: PreTrainedModel, exported: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported, trust_remote_code=True)
    prompt = tokenizer("def scan(x): return x", return_tensors="pt")
    for settings in ({}, {"num_beams": 3}):
        tokens = [
            loaded.generate(
                **prompt, max_new_tokens=40, do_sample=False, use_cache=cached, **settings
            )
            for cached in (True, False)
        ]
        assert torch.equal(*tokens)


def test_a_returned_cache_goes_on_with_several_tokens(loaded: PreTrainedModel) -> None:
    tokens = torch.randint(3, 500, (2, 50), generator=torch.Generator().manual_seed(0))
    whole = loaded(tokens).logits
    first = loaded(tokens[:, :37], use_cache=True)
    mask = torch.ones_like(tokens)
    rest = loaded(tokens[:, 37:], past_key_values=first.past_key_values, attention_mask=mask)
    torch.testing.assert_close(rest.logits, whole[:, 37:], atol=1e-4, rtol=0)


def test_left_padding_is_not_seen(loaded: PreTrainedModel) -> None:
    tokens = torch.randint(3, 500, (1, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.nn.functional.pad(torch.ones_like(tokens), (7, 0))
    one, other = (
        loaded(torch.nn.functional.pad(tokens, (7, 0), value=id_), attention_mask=mask).logits[
            :, 7:
        ]
        for id_ in (0, 300)
    )
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    torch.testing.assert_close(one, loaded(tokens).logits, atol=1e-4, rtol=0)
