"""Figures of the analyzer against other computations of the same."""

import json
from typing import Any

import pytest
import torch

from pretrain.analysis import excitation
from pretrain.analysis.analyze import finite
from pretrain.analysis.responses import filter_figures, frequency_response, impulse_response
from pretrain.analysis.shares import operation_counts, parameter_counts
from pretrain.training.sampling.utilisation import flops_per_token
from spectral.config import ModelConfig
from spectral.filters.modal import ModalFilter
from spectral.lm import SpectralLM

SMALL = {"vocab_size": 64, "dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 16}


def _model(**values: object) -> SpectralLM:
    torch.manual_seed(0)
    config = ModelConfig.model_validate({**SMALL, "num_modes": 6, "conv_chunk": 8} | values)
    model = SpectralLM(config)
    for parameter in model.parameters():
        # nothing stays at zero
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def test_responses_are_those_of_the_taps() -> None:
    torch.manual_seed(0)
    module = ModalFilter(3, 5, 64, 30.0).double()
    T = 4096
    with torch.no_grad():
        h_DT = module.taps(module.powers(0, T))
        h_DT[:, 0] += module.skip
        times = torch.tensor([0.0, 1.0, 7.0, 100.0], dtype=torch.float64)
        found = impulse_response(module, times)
        torch.testing.assert_close(found, h_DT[:, times.long()])
        omega = 2 * torch.pi * torch.tensor([0, 5, 1000, T // 2]) / T
        expected = torch.fft.rfft(h_DT)[:, [0, 5, 1000, T // 2]]
        torch.testing.assert_close(frequency_response(module, omega.double()), expected)


def test_figures_of_filters_are_by_head() -> None:
    model = _model(conv_heads=(2, 0))
    (name,) = found = filter_figures(model, 8)
    assert name == "blocks.0.mixer.filter"
    figures = found[name]
    assert len(figures["impulse_response"]) == figures["heads"] == 2
    radii = [(x * x + y * y) ** 0.5 for x, y in figures["poles"]]
    assert all(0.0 < radius < 1.0 for radius in radii)


# the backward pass of the FFT mixer's learned windows is large in so small a model
@pytest.mark.parametrize(
    ("values", "most"),
    [
        ({}, 4.0),
        ({"mixers": ("fft",)}, 25.0),
        ({"mixers": ("wavelet",)}, 4.0),
        ({"feed_forward": "experts"}, 4.0),
    ],
)
def test_operations_add_up(values: dict[str, object], most: float) -> None:
    config = ModelConfig.model_validate(SMALL | values)
    forward = sum(operation_counts(config, 128).values())
    # backward passes take twice as much
    assert 2.0 * forward < flops_per_token(config, 128) < most * forward
    parameters = parameter_counts(SpectralLM(config))
    assert sum(parameters.values()) == sum(p.numel() for p in SpectralLM(config).parameters())


def test_terms_of_recall_add_up_to_what_is_read() -> None:
    model = _model(conv_heads=(0,))
    tokens = torch.randint(64, (20,))
    outputs: list[torch.Tensor] = []
    mixer = model.blocks[0].mixer
    mix_heads = mixer.mix_heads

    def kept(*arguments: Any) -> Any:
        result = mix_heads(*arguments)
        outputs.append(result[0])
        return result

    mixer.mix_heads = kept
    with torch.no_grad():
        model(tokens[None])
    del mixer.mix_heads
    terms = dict(excitation._recall_terms(model, tokens))[0]
    read = terms.sum(2).transpose(0, 1).flatten(1)
    torch.testing.assert_close(read.float(), outputs[0][0], rtol=1e-4, atol=1e-5)
    for each in excitation.recall_maps(model, tokens):
        sums = each.weights_HTS.sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums))
        assert not each.weights_HTS.triu(1).any()
    assert "mix_heads" not in vars(mixer)


@pytest.mark.parametrize("gates", [{}, {"selection": True}])
def test_a_spectrogram_ends_with_the_state_of_the_whole_text(gates: dict[str, bool]) -> None:
    model = _model(conv_heads=(2,), gates=gates)
    tokens = torch.randint(64, (29,))
    positions, spectra = excitation.spectrograms(model, tokens)
    assert positions == [8, 16, 24, 29]
    whole, all_at_once = excitation.MOST_COLUMNS, {}
    excitation.MOST_COLUMNS = 1
    try:
        _, all_at_once = excitation.spectrograms(model, tokens)
    finally:
        excitation.MOST_COLUMNS = whole
    for name, energy in spectra.items():
        torch.testing.assert_close(energy[:, -1], all_at_once[name][:, 0], rtol=1e-3, atol=1e-7)


def test_reach_of_a_model_that_sees_four_tokens() -> None:
    """Of filters that hold nothing, only the short convolutions look back: 3 tokens a layer."""
    model = _model(conv_heads=(2,))
    with torch.no_grad():
        for block in model.blocks:
            block.mixer.filter.residue.zero_()
    distances, moved = excitation.context_reach(model, torch.randint(64, (40,)))
    assert distances[:4] == [0, 1, 2, 4]
    far = [m for d, m in zip(distances, moved, strict=True) if d > 6]
    assert max(far) < 1e-9
    assert moved[0] > 1e-4
    assert excitation.effective_context(distances, moved) <= 6


def test_a_model_without_convolution_heads() -> None:
    model = _model(conv_heads=(0,))
    assert filter_figures(model, 8) == {}
    assert excitation.spectrograms(model, torch.randint(64, (9,)))[1] == {}
    assert excitation.usage_of(model, torch.randint(64, (9,))) == {}


def test_json_has_no_nan() -> None:
    assert json.dumps(finite({"x": [float("nan"), 1.0, {"y": float("inf")}]})) == (
        '{"x": [null, 1.0, {"y": null}]}'
    )
