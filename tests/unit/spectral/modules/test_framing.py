"""Frames of the hierarchical FFT: SciPy's windows, perfect reconstruction, bands, gradients."""

import pytest
import scipy.signal
import torch

from spectral.modules.chunk_fusion import ChunkFusion, octave_of_bin
from spectral.modules.framing import Frames, window_functions

WINDOWS = ("hann", "hamming", "boxcar")


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 9_216])
def test_pure_windows_are_scipys(length: int) -> None:
    table = window_functions(length, torch.zeros(1, dtype=torch.float64))
    for row, name in zip(table, WINDOWS, strict=True):
        expected = torch.from_numpy(scipy.signal.get_window(name, length))
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("window", [0, 1, 2])
def test_learned_weights_reach_every_pure_window(window: int) -> None:
    frames = Frames(0.125).double()
    with torch.no_grad():
        frames.window_logits[window] = 40.0
    expected = window_functions(72, frames.window_logits)[window]
    torch.testing.assert_close(frames.window(72), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("overlap", [0.125, 0.5, 0.01])
@pytest.mark.parametrize("window", [None, 0, 1, 2])
def test_synthesis_undoes_analysis(window: int | None, overlap: float) -> None:
    """In float32, to 1e-5 of the largest sample, for every length from 1 to 3 chunks."""
    torch.manual_seed(0)
    frames, chunk = Frames(overlap), 32
    with torch.no_grad():
        if window is not None:
            frames.window_logits[window] = 5.0
        frames.fade.add_(torch.tensor([0.5, 0.3]))
    for length in range(1, 3 * chunk + 1):
        u = torch.randn(2, 3, length)
        used = min(chunk, length)
        back = frames.synthesis(frames.analysis(u, used), used, length)
        assert (back - u).abs().max() <= 1e-5 * u.abs().max(), length


@pytest.mark.parametrize(("length", "chunk"), [(16_384, 16_384), (16_385, 8_192), (204_800, 8_192)])
def test_synthesis_undoes_analysis_of_long_sequences(length: int, chunk: int) -> None:
    torch.manual_seed(0)
    frames, u = Frames(0.125), torch.randn(1, 2, length)
    back = frames.synthesis(frames.analysis(u, chunk), chunk, length)
    assert (back - u).abs().max() <= 1e-5 * u.abs().max()


def test_frames_overlap_by_an_eighth() -> None:
    frames = Frames(0.125)
    assert frames.shared(8_192) == 1_024
    assert frames.analysis(torch.randn(1, 1, 204_800), 8_192).shape == (1, 25, 1, 4_609)


@pytest.mark.parametrize("num_bands", [1, 2, 4])
@pytest.mark.parametrize("num_bins", [1, 2, 3, 9, 64, 4_609])
def test_bands_partition_the_spectrum_exactly_once(num_bins: int, num_bands: int) -> None:
    bands = octave_of_bin(num_bins, num_bands)
    assert bands.shape == (num_bins,)
    assert (bands.diff() >= 0).all()
    if num_bins > 8:
        assert bands.unique().tolist() == list(range(num_bands))
    # one scale at a time passes one band, and together they pass every bin once
    fusion, total = ChunkFusion(1, 2, 2, num_bands), torch.zeros(num_bins)
    for band in range(num_bands):
        with torch.no_grad():
            fusion.band_scale_HG.zero_()[:, band] = 1.0
        total += fusion.scales(num_bins)[0].detach()
    assert torch.equal(total, torch.ones(num_bins))


def test_bands_are_octaves() -> None:
    assert octave_of_bin(9, 4).tolist() == [0, 0, 1, 2, 2, 3, 3, 3, 3]
    assert octave_of_bin(9, 2).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_gradients_of_window_and_fade_are_right() -> None:
    torch.manual_seed(0)
    frames = Frames(0.25).double()
    frames.window_logits.data.normal_()
    spectrum = torch.randn(1, 3, 2, 6, dtype=torch.complex128, requires_grad=True)
    u = torch.randn(1, 2, 20, dtype=torch.float64, requires_grad=True)

    def both(u: torch.Tensor, spectrum: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        gain = frames.analysis(u, 8).abs() * spectrum.abs()
        return frames.synthesis(gain * spectrum, 8, 20)

    assert torch.autograd.gradcheck(both, (u, spectrum, *frames.parameters()))
