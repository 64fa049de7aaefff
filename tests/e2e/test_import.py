"""A folder that others fine-tuned becomes a checkpoint to train from in any layout."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pretrain.checkpoint.load import load_model
from tests.conftest import SmallCorpus
from tests.e2e.commands import pretrain_on_two_ranks, resonance
from tests.losses import losses


@pytest.fixture(scope="module")
def trained(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run file of a run of three steps; its export, fine-tuned, is the folder beside it."""
    folder = tmp_path_factory.mktemp("imported")
    run_file = small_corpus.run_file(folder / "run.toml", workers=0, steps=3)
    resonance("pretrain", run_file)
    resonance("checkpoint", "export", folder / "run", folder / "exported")
    model = AutoModelForCausalLM.from_pretrained(folder / "exported", trust_remote_code=True)
    tokens = torch.randint(3, 500, (2, 40), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "tuned", max_shard_size="60KB")
    for file in (folder / "exported").glob("tokenizer*"):
        shutil.copyfile(file, folder / "tuned" / file.name)
    return run_file


def test_training_starts_from_it_in_every_layout(trained: Path, tmp_path: Path) -> None:
    folder, imported = trained.parent, tmp_path / "imported"
    printed = resonance("checkpoint", "import", folder / "tuned", imported)
    assert f"--from {imported} starts from them" in printed
    assert "imported: sound" in resonance("checkpoint", "verify", imported)
    loaded = load_model(imported)[0]
    tuned = AutoModelForCausalLM.from_pretrained(folder / "tuned", trust_remote_code=True)
    tokens = torch.arange(3, 60)[None]
    assert torch.equal(loaded(tokens), tuned(tokens).logits)
    text = resonance("generate", imported, "--prompt", "def scan(", "--max-tokens", 4)
    assert text.startswith("def scan(")

    flags = ("--from", str(imported), "--train.steps", "3", "--train.output")
    resonance("pretrain", trained, *flags, tmp_path / "one")
    split = ("--parallel.tensor", "2")
    pretrain_on_two_ranks(trained, *flags, str(tmp_path / "two"), *split)
    one, two, before = (losses(run) for run in (tmp_path / "one", tmp_path / "two", folder / "run"))
    assert [each.step for each in one if each.loss is not None] == [1, 2, 3]
    for mine, other in zip(one, two, strict=True):
        assert mine.loss == pytest.approx(other.loss, rel=1e-4)
    # it began with other parameters than the run that was exported
    assert abs(one[0].loss - before[0].loss) > 0.1

    # what training writes then is a checkpoint like any other
    printed = resonance("checkpoint", "export", tmp_path / "one", tmp_path / "again")
    assert "greedy tokens equal" in printed


def test_folders_that_are_no_model_are_refused(trained: Path, tmp_path: Path) -> None:
    tuned = trained.parent / "tuned"
    printed = resonance("checkpoint", "import", tuned, tuned, status=1)
    assert f"{tuned} exists already; expected a new folder" in printed
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    printed = resonance("checkpoint", "import", adapter, tmp_path / "new", status=1)
    assert "an adapter without its model; expected a whole one: merge it first" in printed
    printed = resonance("checkpoint", "import", tmp_path, tmp_path / "new", status=1)
    assert "no config.json; expected a folder of `checkpoint export`" in printed

    # an output layer that is no longer the embedding
    untied = tmp_path / "untied"
    shutil.copytree(tuned, untied)
    save_file({"lm_head.weight": torch.ones(512, 32)}, untied / "head.safetensors")
    printed = resonance("checkpoint", "import", untied, tmp_path / "new", status=1)
    assert "lm_head.weight differs from the embedding; expected the same matrix" in printed

    # a parameter that somebody has removed
    file = max(tuned.glob("*.safetensors"))
    state = load_file(file)
    state.pop(min(state))
    shutil.copytree(tuned, tmp_path / "cut")
    save_file(state, tmp_path / "cut" / file.name)
    printed = resonance("checkpoint", "import", tmp_path / "cut", tmp_path / "new", status=1)
    assert "does not fit its config.json: missing" in printed
    assert not (tmp_path / "new").exists()


def test_a_run_of_another_model_does_not_start_from_it(trained: Path, tmp_path: Path) -> None:
    tuned, imported = trained.parent / "tuned", tmp_path / "imported"
    resonance("checkpoint", "import", tuned, imported)
    flags = ("--from", imported, "--model.num-modes", "2", "--train.output", tmp_path / "run")
    printed = resonance("pretrain", trained, *flags, status=1)
    modes = json.loads((tuned / "config.json").read_text())["num_modes"]
    assert f"another model: model.num_modes is {modes} there, 2 here" in printed
