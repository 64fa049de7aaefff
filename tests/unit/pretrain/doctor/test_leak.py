"""`resonance doctor --leak`: broken models are found, sound ones pass."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.doctor import leak, machine
from pretrain.doctor.command import DoctorCommand
from pretrain.doctor.leak_checks import CHECKS, LeakResult, run_checks
from pretrain.errors import RunError
from tests.unit.pretrain.doctor import leak_models
from tests.unit.pretrain.huggingface.models import FEATURES, small_causal_lm

LENGTH = 60


def _results(model: Any, *checks: str, length: int = LENGTH) -> dict[str, LeakResult]:
    return {result.check: result for result in run_checks(model, length, checks)}


def _verdicts(model: Any, verdict: str) -> set[str]:
    return {name for name, result in _results(model).items() if result.verdict == verdict}


@pytest.mark.parametrize("name", FEATURES)
def test_our_models_pass_every_check(name: str) -> None:
    results = _results(small_causal_lm(**FEATURES[name]))
    # a mask of four dimensions is for attention
    refused = [check for check, result in results.items() if result.verdict == "refused"]
    assert refused == ["documents by attention_mask"]
    assert "expected [1, 60]" in results["documents by attention_mask"].note
    assert not [result for result in results.values() if result.verdict == "leaks"]


def test_a_transformer_is_told_of_documents_by_positions_or_masks() -> None:
    leaks = _verdicts(leak_models.llama(), "leaks")
    # its kernel on a CPU reads neither
    assert leaks == {"documents by cu_seq_lens", "documents by seq_idx"}


@pytest.mark.parametrize("make", [leak_models.mamba2, leak_models.delta_net])
def test_recurrent_models_are_causal(make: Callable[[], Any]) -> None:
    results = _results(make(), "causality", "batch mates", "cache, tokens one by one")
    assert {result.verdict for result in results.values()} == {"ok"}


def test_a_convolution_that_reads_the_next_token_is_found() -> None:
    result = _results(leak_models.mamba2_shifted(), "causality")["causality"]
    assert result.verdict == "leaks"
    assert result.position == 0
    assert result.difference > 100 * result.tolerance


def test_a_mean_over_the_batch_is_found() -> None:
    checks = ("causality", "batch mates")
    results = _results(leak_models.delta_net_shared_state(), *checks)
    assert [results[check].verdict for check in checks] == ["ok", "leaks"]


def test_a_circular_convolution_is_found() -> None:
    assert _results(leak_models.fft_mixer(), "causality")["causality"].verdict == "ok"
    result = _results(leak_models.fft_mixer(padded=False), "causality")["causality"]
    assert (result.verdict, result.position) == ("leaks", 0)


def test_documents_that_mix_are_found_and_said_to_be_ignored() -> None:
    result = _results(leak_models.mamba2(), "documents by seq_idx")["documents by seq_idx"]
    assert (result.verdict, result.position) == ("leaks", LENGTH * 2 // 5)
    assert result.note == "the model ignores it"


def test_a_state_that_a_document_inherits_is_found() -> None:
    model = small_causal_lm()
    for block in model.model.blocks:
        # documents are told to one part of the mixer and not to the other
        block.mixer.short_conv.register_forward_pre_hook(lambda _, args: (args[0], None, *args[2:]))
    result = _results(model, "documents by position_ids")["documents by position_ids"]
    assert (result.verdict, result.position) == ("leaks", LENGTH * 2 // 5)


def test_numbers_that_are_not_finite_are_no_pass() -> None:
    model = leak_models.fft_mixer()
    model.head.register_forward_hook(lambda *call: call[-1] * float("nan"))
    assert _results(model, "batch mates")["batch mates"].verdict == "leaks"


def test_the_command_prints_a_table_or_json_and_fails_on_leaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leak_models.llama().save_pretrained(tmp_path / "llama")
    command = DoctorCommand(leak=str(tmp_path / "llama"), checks=("causality",), length=40)
    table = machine.doctor(command)
    assert "causality" in table
    assert "ok" in table
    report = json.loads(machine.doctor(command.model_copy(update={"as_json": True})))
    assert (report["leaks"], report["length"], report["dtype"]) == (0, 40, "float32")
    all_checks = command.model_copy(update={"checks": (), "as_json": True})
    # what transformers printed while the folder was made
    capsys.readouterr()
    with pytest.raises(RunError, match="leaks: documents by cu_seq_lens, documents by seq_idx"):
        machine.doctor(all_checks)
    report = json.loads(capsys.readouterr().out)
    assert [check["check"] for check in report["checks"]] == list(CHECKS)
    assert report["leaks"] == 2


def test_what_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    for name, message in (
        (str(tmp_path), "expected a causal language model that transformers loads"),
        (str(tmp_path / "missing"), "missing: expected a causal language model"),
    ):
        with pytest.raises(RunError, match=message):
            leak.leak_report(DoctorCommand(leak=name))
    with pytest.raises(RunError, match=r"checks: expected some of causality, .*, got 'casuality'"):
        leak.leak_report(DoctorCommand(leak=str(tmp_path), checks=("casuality",)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rounding_of_other_precisions_is_no_leak(dtype: torch.dtype) -> None:
    model = small_causal_lm().to(dtype)
    assert _results(model, "causality", "left padding")["causality"].verdict == "ok"
