"""Runs whose blocks torch compiles to machine code, from the command line."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import SmallCorpus
from tests.e2e.commands import COMMAND, ENVIRONMENT, resonance
from tests.losses import losses, trained

# one kind of layer: each takes minutes where many tests share a processor
MODEL = 'conv_heads = [2]\nmixers = ["heads"]'


@pytest.mark.timeout(900)
def test_a_compiled_run_equals_the_plain_one_and_resumes_bit_by_bit(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    outputs = {name: tmp_path / name / "run" for name in ("plain", "whole", "resumed")}
    for name, output in outputs.items():
        output.parent.mkdir()
        small_corpus.run_file(
            output.parent / "run.toml", model=MODEL, workers=0, compile=name != "plain"
        )
    for name in ("plain", "whole"):
        resonance("pretrain", tmp_path / name / "run.toml")
    resumed = tmp_path / "resumed" / "run.toml"
    resonance("pretrain", resumed, "--train.steps", 3)
    resonance("pretrain", resumed, "--resume", "--train.steps", 6)

    plain, whole = (losses(outputs[name]) for name in ("plain", "whole"))
    steps = {step.step: step for step in losses(outputs["resumed"])}
    assert steps == {step.step: step for step in whole}
    assert trained(whole) == pytest.approx(trained(plain), rel=1e-5)
    # later ones are off by a thousandth after any rounding error: AdamW makes it grow
    assert whole[0].grad_norm == pytest.approx(plain[0].grad_norm, rel=1e-5)
    assert whole[-1].valid_loss == pytest.approx(plain[-1].valid_loss, rel=1e-5)


def test_a_machine_without_a_compiler_is_named(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=0, compile=True)
    broken = ENVIRONMENT | {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    # from nothing: torch reads the name of the compiler when it is imported
    command = [*COMMAND, "pretrain", str(run_file)]
    result = subprocess.run(command, env=broken, capture_output=True, text=True)
    assert result.returncode == 1
    message = result.stderr.strip().splitlines()[-1]
    assert "train.compile is true, and torch.compile does not work on" in message
    assert "expected a C++ compiler there" in message
    assert "Traceback" not in result.stderr
