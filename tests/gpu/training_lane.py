"""Training, checkpoints, resumption and decoding on the device of RESONANCE_TEST_DEVICE.

Run by `python -m tests.gpu`. Commands are those of a user, and take the GPU by themselves.
"""

import itertools
import math
import os
from pathlib import Path

import pytest
import torch

from spectral.lm import LMLoss, SpectralLM
from tests.conftest import SmallCorpus
from tests.distributed.features import EVERYTHING, config
from tests.e2e.commands import resonance
from tests.losses import Step, losses, trained

DEVICE = torch.device(os.environ.get("RESONANCE_TEST_DEVICE", "cpu"))
MODELS: dict[str, dict[str, object]] = {
    "plain": {},
    "everything": EVERYTHING,
    "fft": {"mixers": ("fft",)},
    "wavelet": {"mixers": ("wavelet",)},
    "experts": {"feed_forward": "experts"},
}
# one kind of layer: each is compiled separately
ONE_KIND = "conv_heads = [2]"


def _train(corpus: SmallCorpus, folder: Path, *flags: object, **train: object) -> list[Step]:
    folder.mkdir()
    run_file = corpus.run_file(folder / "run.toml", model=ONE_KIND, workers=0, **train)
    resonance("pretrain", run_file, *flags, fresh=True)
    return losses(folder / "run")


@pytest.fixture(scope="module")
def in_float32(
    small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, float]:
    """The losses of a run in float32, by step."""
    folder = tmp_path_factory.mktemp("float32") / "run"
    return trained(_train(small_corpus, folder, precision="float32"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("recompute", "compiled"),
    [*itertools.product(("none", "selective", "full"), (False, True))],
)
def test_bf16_steps_follow_float32(
    recompute: str,
    compiled: bool,
    in_float32: dict[int, float],
    small_corpus: SmallCorpus,
    tmp_path: Path,
) -> None:
    found = trained(
        _train(
            small_corpus,
            tmp_path / "run",
            precision="bf16",
            activation_checkpointing=recompute,
            compile=compiled,
        )
    )
    # eight bits of mantissa in every product
    assert found == pytest.approx(in_float32, rel=2e-3)
    assert found != in_float32


@pytest.mark.timeout(900)
def test_a_resumed_run_has_the_losses_of_the_undisturbed_one(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    whole = _train(small_corpus, tmp_path / "whole", precision="bf16")
    _train(small_corpus, tmp_path / "resumed", "--train.steps", 3, precision="bf16")
    run_file, output = (tmp_path / "resumed" / name for name in ("run.toml", "run"))
    checkpoint = output / "checkpoints" / "step-0000003"
    assert "files have their SHA-256" in resonance("checkpoint", "verify", checkpoint, fresh=True)
    resonance("pretrain", run_file, "--resume", fresh=True)
    steps = {step.step: step for step in losses(output)}
    assert steps == {step.step: step for step in whole}
    flags = ("--prompt", "def ", "--max-tokens", 8, "--temperature", 0)
    printed = [resonance("generate", output, *flags, fresh=True) for _ in range(2)]
    assert printed[0] == printed[1]
    assert "def " in printed[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_on_the_device_is_as_near_to_float64_as_on_the_cpu(name: str) -> None:
    torch.manual_seed(0)
    model = SpectralLM(config(**MODELS[name], max_time_constant=1e3)).eval()
    tokens_BT = torch.randint(51, (2, 45))
    segment_ids_BT = torch.tensor([[0] * 20 + [1] * 25, [0] * 45])

    def gradients(dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
        model.to(device, dtype).zero_grad(set_to_none=True)
        inputs = [i.to(device) for i in (tokens_BT, segment_ids_BT, tokens_BT)]
        loss = model(*inputs)
        assert isinstance(loss, LMLoss)
        (loss.nll + loss.auxiliary).backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        return [loss.nll.detach().double().cpu(), *(g.double().cpu() for g in grads)]

    cpu = torch.device("cpu")
    found, on_cpu = gradients(torch.float32, DEVICE), gradients(torch.float32, cpu)
    exact = gradients(torch.float64, cpu)
    for ours, theirs, true in zip(found, on_cpu, exact, strict=True):
        assert math.isfinite(float(ours.norm()))
        # another order of sums: errors of the same size, not the same errors
        limit = 4.0 * float((theirs - true).norm()) + 1e-6 * float(true.norm())
        assert float((ours - true).norm()) <= limit


@pytest.mark.parametrize("name", MODELS)
def test_decoding_equals_the_parallel_form(name: str) -> None:
    torch.manual_seed(0)
    model = SpectralLM(config(**MODELS[name], max_time_constant=1e3)).eval().to(DEVICE)
    tokens_BT = torch.randint(51, (2, 29), device=DEVICE)
    with torch.no_grad():
        whole_BTV = model(tokens_BT)
        logits_BTV, state = model.prefill(tokens_BT[:, :16])
        steps = [logits_BTV[:, -1]]
        for t in range(16, 29):
            logits_BV, state = model.step(tokens_BT[:, t], state)
            steps.append(logits_BV)
    torch.testing.assert_close(torch.stack(steps, 1), whole_BTV[:, 15:], rtol=1e-4, atol=1e-4)
