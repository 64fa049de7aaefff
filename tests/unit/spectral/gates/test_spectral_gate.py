"""Spectral gates: causal, isolated and recurrent each alone and together, and really at work."""

import math

import pytest
import torch

from spectral.config import ModelConfig
from spectral.gates.bin_groups import BinGroupGate
from spectral.gates.bin_selection import BinSelector
from spectral.gates.config import GatesConfig
from spectral.gates.keys import GATE_PARTS, SELECTION_PARTS
from spectral.gates.losses import gate_losses
from spectral.gates.spectral_gate import NUM_BANDS, SpectralGate, band_of_bin
from spectral.layout import SINGLE_DEVICE
from spectral.lm import SpectralLM
from spectral.sequence.span import WHOLE
from tests.unit.spectral.causality.checks import (
    check_causal,
    check_gradients,
    check_isolated,
    check_recurrent,
    small_config,
    small_model,
    some_tokens,
)

EVERYTHING: dict[str, object] = {
    name: 0.1 if name.endswith(("_dropout", "_weight")) else True for name in GATE_PARTS
}
# changes of a configuration, by what they switch on
SETTINGS = {name: {"gates": {name: value}} for name, value in EVERYTHING.items()}
SETTINGS["everything"] = {"gates": EVERYTHING}
SETTINGS["selection_by_energy"] = {"gates": {"selection": True, "selection_parts": ()}}
# parts that change what a model computes by themselves, once they have learned something
ACTIVE = [name for name in GATE_PARTS if not name.endswith(("_weight", "_dropout", "residual"))]


def _config(name: str, **changes: object) -> ModelConfig:
    return small_config(num_modes=8, **SETTINGS[name], **changes)


def _spectrum(R: int = 3, H: int = 2, N: int = 4, M: int = 16) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(R, H, N, M, dtype=torch.complex128)


@pytest.mark.parametrize("name", SETTINGS)
def test_gated_models_stay_causal_isolated_and_recurrent(name: str) -> None:
    model = small_model(_config(name))
    check_causal(model)
    check_isolated(model)
    check_recurrent(model, 25)


@pytest.mark.parametrize("split", [1, 7, 8, 11, 29])
def test_a_prompt_may_come_in_pieces(split: int) -> None:
    model, tokens = small_model(_config("everything")), some_tokens(2, 30)
    head, state = model.prefill(tokens[:, :split])
    tail, _ = model.prefill(tokens[:, split:], state=state)
    torch.testing.assert_close(torch.cat([head, tail], dim=1), model(tokens))


@pytest.mark.parametrize("name", ACTIVE)
def test_every_part_changes_the_logits(name: str) -> None:
    gated = small_model(_config(name))
    plain = SpectralLM(small_config(num_modes=8)).double().eval()
    parameters = {
        key.replace(".filter.filter.", ".filter."): value
        for key, value in gated.state_dict().items()
    }
    plain.load_state_dict({k: v for k, v in parameters.items() if ".gate." not in k})
    difference = (gated(some_tokens(1, 30)) - plain(some_tokens(1, 30))).abs()[0].amax(-1)
    # the first chunk carries nothing in: there is nothing to gate
    assert difference[:8].max() < 1e-12
    assert difference[8:].min() > 1e-6


def test_a_residual_lets_a_share_of_the_spectrum_pass() -> None:
    plain = SpectralGate(GatesConfig(soft_threshold=True), 2, 8).double()
    both = SpectralGate(GatesConfig(soft_threshold=True, residual=True), 2, 8).double()
    expected = 0.5 * plain(_spectrum(M=8))[0] + 0.5
    torch.testing.assert_close(both(_spectrum(M=8))[0], expected)


def test_gradients_reach_every_parameter() -> None:
    check_gradients(_config("everything"))


def test_auxiliary_losses_say_what_they_claim() -> None:
    flat = torch.ones(4, 2, 8, dtype=torch.float64)
    identity = torch.ones(4, 2, 8, dtype=torch.complex128)
    losses = gate_losses(flat, identity)
    assert losses.entropy == pytest.approx(0.0, abs=1e-6)
    assert losses.consistency == pytest.approx(0.0, abs=1e-6)
    single = torch.zeros_like(identity)
    single[..., 0] = 1.0
    losses = gate_losses(flat, single)
    assert losses.entropy == pytest.approx(1.0, abs=1e-3)
    # KL(uniform || one bin with everything, EPSILON elsewhere)
    assert losses.consistency > 0.5 * math.log(1e6)


def test_bands_partition_the_bins() -> None:
    for num_bins in (4, 7, 16, 33):
        bands = band_of_bin(num_bins)
        assert bands.unique().tolist() == list(range(NUM_BANDS))
        assert (bands.diff() >= 0).all()
        assert bands.bincount().max() - bands.bincount().min() <= 1


@pytest.mark.parametrize("share", [-30.0, 0.0, 30.0])
def test_selection_drops_55_to_88_percent_of_the_bins(share: float) -> None:
    torch.manual_seed(0)
    selector = BinSelector(num_heads=2).double()
    with torch.no_grad():
        selector.share_H.fill_(share)
    for training in (False, True):
        mask = selector(
            torch.randn(5, 2, 100, dtype=torch.float64), noise=WHOLE if training else None
        )
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        kept = mask.mean(-1)
        assert 0.12 <= kept.min() <= kept.max() <= 0.45
        assert kept.unique().tolist() == pytest.approx([round(selector.shares()[0].item(), 2)])


@pytest.mark.parametrize("part", SELECTION_PARTS)
def test_every_part_of_the_selection_is_switched_by_itself(part: str) -> None:
    """Its parameters go with it, what is left learns, and another choice is made."""
    others = tuple(name for name in SELECTION_PARTS if name != part)
    features = torch.randn(50, 2, 32, generator=torch.Generator().manual_seed(0))
    kept = []
    for parts in (SELECTION_PARTS, others, (part,), ()):
        config = small_config(
            num_modes=8,
            conv_heads=(4,),
            gates={"selection": True, "selection_parts": parts},
        )
        check_gradients(config)
        torch.manual_seed(0)
        selector = BinSelector(2, parts)
        if "adaptive_share" in parts:
            selector.share_H.data.fill_(-3.0)
        kept.append(selector(features, noise=WHOLE))
    assert not torch.equal(kept[0], kept[1])
    by_energy = kept[3]
    # with all heads alike, smoothing and ranges need no parameter to be seen at work
    assert not torch.equal(kept[2], by_energy)
    order = features.argsort(-1, descending=True).argsort(-1)
    assert torch.equal(by_energy, (order < round(0.285 * 32)).float())


def test_selection_keeps_the_best_scores_and_explores_only_in_training() -> None:
    torch.manual_seed(0)
    selector = BinSelector(num_heads=2).double().eval()
    features = torch.randn(3, 2, 32, dtype=torch.float64)
    mask = selector(features)
    scores = selector.scores(features)
    for row in range(3):
        for head in range(2):
            kept, dropped = (
                scores[row, head][mask[row, head] == 1],
                scores[row, head][mask[row, head] == 0],
            )
            assert kept.min() > dropped.max()
    assert torch.equal(selector(features), mask)
    assert not torch.equal(selector.train()(features, noise=WHOLE), mask)


@pytest.mark.parametrize(("share", "num_read"), [(-30.0, 1), (0.0, 2), (30.0, 3)])
def test_dropped_modes_are_not_computed_when_decoding(share: float, num_read: int) -> None:
    """12% to 45% of 8 modes are read: as many as the head keeps that keeps most."""
    config = _config("selection", num_layers=1, conv_heads=(4,))
    model = small_model(config)
    with torch.no_grad():
        model.blocks[0].mixer.filter.gate.selector.share_H.fill_(share)
    _, state = model.prefill(some_tokens(2, 20))
    assert state.layers[0].inner.modes.read_BDK.shape == (2, config.dim, num_read)
    check_recurrent(model)


@pytest.mark.parametrize("num_bins", [1, 2, 3, 6, 10, 14, 28, 100])
def test_any_number_of_bins_is_selected_from(num_bins: int) -> None:
    gate = BinGroupGate(GatesConfig(selection=True), num_heads=4, num_groups=16).double().eval()
    torch.manual_seed(0)
    spectrum = torch.randn(2, 3, 4, 4, num_bins, dtype=torch.complex128)
    kept = (gate(spectrum, SINGLE_DEVICE)[0].abs().amax(3) > 0).double().mean(-1)
    least, most = (0.12, 0.45) if num_bins >= 3 else (1 / num_bins, 1 / num_bins)
    assert least <= kept.min() <= kept.max() <= most


def test_frequency_dropout_drops_whole_bins_in_training_only() -> None:
    gate = SpectralGate(GatesConfig(frequency_dropout=0.1), num_heads=2, num_bins=16).double()
    torch.manual_seed(0)
    values = gate.train()(_spectrum(R=200))[0]
    assert values.abs().unique().tolist() == pytest.approx([0.0, 1.0 / 0.9])
    assert (values == 0).double().mean() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(gate.eval()(_spectrum())[0], torch.ones(3, 2, 16, dtype=torch.complex128))


def test_gradients_of_a_gate_are_right() -> None:
    """Wirtinger calculus: phase and magnitude both learn (gradcheck in complex128)."""
    config = GatesConfig.model_validate(EVERYTHING | {"selection": False})
    gate = SpectralGate(config, 2, 8).double().eval()
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))

    def read(spectrum: torch.Tensor) -> torch.Tensor:
        values, losses = gate(spectrum)
        return torch.view_as_real(spectrum * values[:, :, None]).sum() + sum(losses)

    spectrum = _spectrum(R=2, M=8).requires_grad_()
    assert torch.autograd.gradcheck(read, (spectrum,))
    magnitude = spectrum.detach().abs().requires_grad_()
    phase = spectrum.detach().angle().requires_grad_()
    grads = torch.autograd.grad(read(torch.polar(magnitude, phase)), (magnitude, phase))
    assert all(grad.abs().min() > 0 for grad in grads)


def test_more_bands_than_modes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_modes must be at least 4 .* got 3"):
        small_config(num_modes=3, gates={"bands": True})
