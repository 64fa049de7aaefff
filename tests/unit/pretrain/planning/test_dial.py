"""A run proposed from its tokens: every key with a source, and a file that starts as it is."""

import json
import re
from pathlib import Path

import pytest

from pretrain.errors import RunError
from pretrain.launch_commands import PlanCommand
from pretrain.planning.plan import plan
from pretrain.run_checks import check_run
from pretrain.run_file import load_run
from spectral.presets import PRESETS
from tests.conftest import SmallCorpus
from tests.e2e.commands import resonance


def _proposed(**options: object) -> dict[str, object]:
    text = plan(PlanCommand.model_validate({"as_json": True} | options))
    assert text is not None
    table = json.loads(text)
    assert all(rule["source"] for rule in table["run"].values())
    return {key: rule["value"] for key, rule in table["run"].items()} | {
        "parameters": table["parameters"]
    }


def test_a_preset_gets_batch_and_steps_of_its_tokens() -> None:
    few, many = (_proposed(tokens=tokens, preset="small") for tokens in (10**9, 16 * 10**9))
    for run, tokens in ((few, 10**9), (many, 16 * 10**9)):
        step = run["train.global_batch_size"] * run["data.sequence_length"]  # type: ignore[operator]
        # whole windows and whole steps
        assert run["train.steps"] * step == pytest.approx(tokens, rel=0.01)
        assert run["data.sequence_length"] <= PRESETS["small"].context_length  # type: ignore[operator]
    sizes = [r["train.global_batch_size"] * r["data.sequence_length"] for r in (few, many)]  # type: ignore[operator]
    assert sizes[1] / sizes[0] == pytest.approx(16**0.383, rel=0.15)
    assert few["optim.learning_rate"] == many["optim.learning_rate"]


@pytest.mark.parametrize("tokens", [10**7, 10**9, 3 * 10**10])
def test_without_a_preset_the_size_suits_the_tokens(tokens: int) -> None:
    run = _proposed(tokens=tokens, optimizer="adamw")
    # depths are whole numbers, and a large vocabulary is most of a small model
    assert 0.4 < 20 * run["parameters"] / tokens < 2.5 or tokens == 10**7  # type: ignore[operator]
    assert run["model.dim"] == 64 * run["model.num_layers"]  # type: ignore[operator]
    assert run["optim.name"] == "adamw"


def test_a_written_run_starts_as_it_is(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    options = {
        "tokens": 20_000,
        "data": small_corpus.folder / "data",
        "tokenizer": str(small_corpus.tokenizer),
        "write": file,
    }
    text = plan(PlanCommand.model_validate(options))
    assert text is not None
    assert f"written to {file}" in text
    run = load_run(file)
    check_run(run, 1)
    assert run.optim.scale == "width"
    assert run.model.vocab_size == 512
    # every key of the text is in the file
    for key, value in re.findall(r"^([a-z_.]+) = (\S+)", text, re.MULTILINE):
        table, _, name = key.partition(".")
        assert json.dumps(run.model_dump(mode="json")[table][name]) == value
    resonance("pretrain", file, "--train.output", tmp_path / "run", "--train.wandb", "disabled")
    assert (tmp_path / "run" / "checkpoints").is_dir()
    with pytest.raises(RunError, match=r"run\.toml exists; expected a new file"):
        plan(PlanCommand.model_validate(options))


def test_what_cannot_be_proposed_is_refused(tmp_path: Path) -> None:
    for options, message in (
        ({}, "expected a run file, or --tokens"),
        ({"tokens": 5, "run_file": tmp_path}, "expected a run file, or --tokens"),
        ({"tokens": 10**9, "preset": "smal"}, "--preset is 'smal'; expected one of tiny, small"),
        ({"tokens": 900}, "\\d+ steps; expected at least 20 steps"),
        ({"tokens": 10**9, "search": True}, "expected no --search and no --gpus"),
        ({"run_file": tmp_path, "preset": "tiny"}, "expected --tokens instead of a run file"),
        (
            {"tokens": 9, "write": tmp_path / "x", "data": tmp_path},
            r"made by `resonance data build`",
        ),
    ):
        with pytest.raises(RunError, match=message):
            plan(PlanCommand.model_validate(options))
