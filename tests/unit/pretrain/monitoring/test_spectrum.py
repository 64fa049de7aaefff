"""Figures of filters and of the states that they carry, against slower computations."""

import math

import pytest
import torch

from pretrain.monitoring.spectrum import SpectrumObserver, figures_of, filters_of, usage
from spectral.config import ModelConfig
from spectral.filters.modal import ModalFilter
from spectral.lm import SpectralLM

SMALL = {"vocab_size": 64, "dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 16}


def _model(**values: object) -> SpectralLM:
    torch.manual_seed(0)
    return SpectralLM(
        ModelConfig.model_validate({**SMALL, "num_modes": 6, "conv_chunk": 8} | values)
    )


def test_usage_of_known_spectra() -> None:
    energy = torch.tensor([[[1.0, 1, 1, 1], [97, 1, 1, 1], [0, 0, 0, 0], [5, 4.5, 0.5, 0]]])
    found = usage(energy)
    assert found["entropy"][0, 0] == pytest.approx(1.0)
    shares = [0.97, 0.01, 0.01, 0.01]
    entropy = -sum(share * math.log(share) for share in shares) / math.log(4)
    assert found["entropy"][0, 1] == pytest.approx(entropy)
    assert found["used_share"][0].tolist() == [1.0, 0.25, 0.0, 0.5]
    assert found["selected_share"][0].tolist() == [1.0, 1.0, 0.0, 0.75]


def test_energy_is_that_of_the_state_after_the_last_token() -> None:
    model = _model(conv_heads=(2,)).eval()
    inputs: list[torch.Tensor] = []
    inner = model.blocks[1].mixer.filter
    assert isinstance(inner, ModalFilter)
    inner.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    filters = filters_of(model, 8)
    tokens = torch.randint(64, (3, 21))
    with SpectrumObserver(model, filters) as observer, torch.no_grad():
        model(tokens)
    found = figures_of(observer.table, filters)["blocks.1.mixer.filter"]
    # token by token, in the recurrent form
    state = torch.zeros(3, 16, 6, dtype=torch.complex64)
    with torch.no_grad():
        for t in range(21):
            _, state = inner.step(inputs[0][:, :, t], state)
    energy = (inner.amplitudes() * state).abs().square().unflatten(1, (2, 8)).sum(2)
    for figure, value in usage(energy).items():
        assert found[figure] == pytest.approx(value.mean(0).tolist(), rel=1e-4)
    tau = (-inner.log_decay).exp().detach().reshape(2, -1)
    assert found["time_constant_p50"] == pytest.approx(tau.quantile(0.5, dim=1).tolist())
    assert "gate_magnitude" not in found


def test_nothing_is_observed_after_the_context() -> None:
    model = _model(conv_heads=(2,)).eval()
    with SpectrumObserver(model, filters_of(model, 8)) as observer:
        pass
    model(torch.randint(64, (1, 9)))
    assert not observer.table.any()


def test_a_selection_reads_a_part_of_the_modes() -> None:
    model = _model(conv_heads=(2,), gates={"selection": True, "bands": True}).train()
    filters = filters_of(model, 8)
    tokens = torch.randint(64, (2, 24))
    with SpectrumObserver(model, filters) as observer:
        model(tokens)
    for figures in figures_of(observer.table, filters).values():
        # 12% to 45% of 6 modes
        assert all(0.1 < share <= 0.5 for share in figures["selected_share"])
        # the gate of the dropped ones is 0
        assert all(0.05 < magnitude < 0.8 for magnitude in figures["gate_magnitude"])


def test_a_model_without_convolution_heads_has_no_filters() -> None:
    filters = filters_of(_model(conv_heads=(0,)), 8)
    assert filters.rows == {}
    assert figures_of(torch.zeros(0, 13), filters) == {}
