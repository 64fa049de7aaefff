"""From text to a model that others load: the stages of the main job, small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.quickstart import stages
from tests.conftest import SmallCorpus
from tests.e2e.commands import ENVIRONMENT, files_below, resonance

# Blocks every module that neither torch nor transformers needs, Resonance's own first of all.
ISOLATED = """
import importlib.metadata as metadata, re, sys

def needs(name, seen):
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in seen:
        return
    try:
        requires = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    seen.add(name)
    for requirement in requires:
        if "extra ==" not in requirement:
            needs(re.match(r"[A-Za-z0-9._-]+", requirement).group(), seen)

allowed = set()
for name in ("torch", "transformers"):
    needs(name, allowed)
blocked = {
    module
    for module, names in metadata.packages_distributions().items()
    if not {re.sub(r"[-_.]+", "-", n).lower() for n in names} & allowed
} | {"pretrain", "spectral", "kernels", "launch", "data_pipeline"}

class Finder:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        hidden = name.split(".")[0] in blocked
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Finder(f) for f in sys.meta_path if hasattr(f, "find_spec")]
assert {"sentencepiece", "deepspeed", "tyro", "einops"} <= blocked, "the test would show nothing"
"""

LOAD = """
import json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompt = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(prompt, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)
print(json.dumps({
    "ids": inputs["input_ids"][0].tolist(),
    "logits": logits[0, -1].tolist(),
    "tokens": tokens[0].tolist(),
}))
"""


@pytest.fixture(scope="module")
def trained(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that two ranks trained for a few steps."""
    folder = tmp_path_factory.mktemp("trained")
    resonance("launch", "local", small_corpus.run_file(folder / "run.toml"))
    return folder / "run"


def test_a_run_leaves_what_it_promises(trained: Path) -> None:
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "loss" in r] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records if "valid_loss" in r] == [3, 6]
    checkpoint = "checkpoints/step-0000006"
    assert {
        "run.toml",
        "loss.png",
        *(f"{checkpoint}/{name}" for name in ("tensors/index.json", "manifest.json", "run.toml")),
    } <= files_below(trained)


def test_evaluate_reports_the_model_beside_its_baselines(trained: Path) -> None:
    printed = resonance("evaluate", trained, fresh=True)
    losses = json.loads((trained / "evaluation.json").read_text())["losses"]
    assert list(losses) == ["model", "unigram", "bigram", "trigram"]
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    # the loss that training saw, now by one process
    assert losses["model"] == pytest.approx(records[-1]["valid_loss"], rel=1e-5)
    assert f"{losses['bigram']:.4f}" in printed


def test_generate_is_reproducible_and_begins_with_the_prompt(trained: Path) -> None:
    arguments = ("generate", trained, "--prompt", "def scan(\tx):", "--max-tokens", 20)
    first = resonance(*arguments)
    assert first.startswith("def scan(\tx):")
    assert resonance(*arguments, fresh=True) == first
    assert resonance(*arguments, "--seed", 1) != first


def test_exported_folder_loads_with_torch_and_transformers_alone(
    trained: Path, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    import torch

    from data_pipeline.tokenizer import load_tokenizer
    from pretrain.checkpoint.load import load_model
    from spectral.decoding import greedy_tokens

    output = tmp_path / "exported"
    exported = resonance("checkpoint", "export", trained, output, fresh=True)
    assert "greedy tokens equal" in exported
    prompt = "def scan(x):\n    return  'é'"
    result = subprocess.run(
        [sys.executable, "-c", ISOLATED + LOAD, str(output), prompt],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])

    tokenizer = load_tokenizer(small_corpus.tokenizer)
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    assert found["ids"] == ids
    model, _, _ = load_model(trained)
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0, -1]
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, atol=1e-4, rtol=0)
    stream = greedy_tokens(model, torch.tensor([ids]))
    expected = [int(token) for _, token in zip(range(12), stream, strict=False)]
    continued = found["tokens"][len(ids) :]
    assert continued == expected[: len(continued)]
    assert len(continued) == 12 or continued[-1] == tokenizer.eos_id

    again = resonance("checkpoint", "export", trained, output, status=1)
    assert f"{output}: exists; expected a new folder" in again


def test_the_main_job_runs_the_users_own_commands(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    plan = stages(small_corpus.run_file(tmp_path / "run.toml"))
    assert [stage.arguments[0] for stage in plan] == [
        "tokenizer",
        "data",
        "launch",
        "evaluate",
        "generate",
        "checkpoint",
    ]
    # the tokenizer is there already and would be kept
    assert plan[0].result == small_corpus.tokenizer
