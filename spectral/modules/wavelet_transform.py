"""Wavelet analysis by filter banks: decimated and invertible, or one-sided without decimation.

Both forms share their coefficients: at the last token of each block of 2^l, the undecimated level l
equals the decimated one.

Shape letters: B batch, D channels, T time (tokens), L taps of a filter, W tokens that the deepest
level reaches back over, itself included.

Source: Mallat 1989; the undecimated form is the "algorithme à trous" (Holschneider et al. 1989).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class FilterBank(NamedTuple):
    """Filters of a family: analysis low and high pass, synthesis low and high pass."""

    analysis_low: tuple[float, ...]
    analysis_high: tuple[float, ...]
    synthesis_low: tuple[float, ...]
    synthesis_high: tuple[float, ...]

    @classmethod
    def from_flat(cls, taps: Sequence[float]) -> "FilterBank":
        """From the four filters end to end, as the configuration holds them.

        Raises:
            ValueError: There are no taps, or not four filters of one even length.
        """
        if not taps or len(taps) % 8:
            raise ValueError(
                "wavelet.bank: expected four filters of one even length, got "
                f"{len(taps)} numbers in all"
            )
        length = len(taps) // 4
        return cls(*(tuple(taps[i * length : (i + 1) * length]) for i in range(4)))


def reach(bank: FilterBank, levels: int) -> int:
    """Tokens W that the deepest undecimated level reaches back over, itself included."""
    return (len(bank.analysis_low) - 1) * (2**levels - 1) + 1


def decompose(u_BDT: Tensor, bank: FilterBank, levels: int) -> list[Tensor]:
    """Decimated analysis with zeros outside: [coarsest approximation, its detail, ..., finest].

    Equals `pywt.wavedec(u, family, mode="zero", level=levels)`. Cost: O(B D T L).
    """
    filters_2L = u_BDT.new_tensor([bank.analysis_low[::-1], bank.analysis_high[::-1]])
    L = filters_2L.shape[1]
    details, rest_BDT = [], u_BDT
    for _ in range(levels):
        B, D, T = rest_BDT.shape
        num_out = (T + L - 1) // 2
        padded = F.pad(rest_BDT, (L - 2, 2 * num_out - T)).reshape(B * D, 1, -1)
        both = F.conv1d(padded, filters_2L[:, None], stride=2).view(B, D, 2, num_out)
        rest_BDT, detail = both.unbind(2)
        details.append(detail)
    return [rest_BDT, *reversed(details)]


def reconstruct(coefficients: Sequence[Tensor], bank: FilterBank, length: int) -> Tensor:
    """The signal [B, D, length] of such coefficients; equals `pywt.waverec`."""
    filters_2L = coefficients[0].new_tensor([bank.synthesis_low, bank.synthesis_high])
    L = filters_2L.shape[1]
    rest_BDT = coefficients[0]
    for detail in coefficients[1:]:
        B, D, T = detail.shape
        # an odd length was analysed: the last number reconstructs a token that is not there
        both = torch.stack([rest_BDT[..., :T], detail], dim=2).view(B * D, 2, T)
        signal = F.conv_transpose1d(both, filters_2L[:, None], stride=2)
        rest_BDT = signal.view(B, D, -1)[..., L - 2 : 2 * T]
    return rest_BDT[..., :length]


def causal_levels(
    u_BDT: Tensor, bank: FilterBank, levels: int, age_BT: Tensor | None = None
) -> list[Tensor]:
    """Undecimated one-sided analysis: [finest detail, ..., coarsest detail, approximation].

    Every level has the signal's shape, and none sees a later token.

    Args:
        u_BDT: Signal; zero before its beginning.
        bank: Filters.
        levels: Number of levels.
        age_BT: Tokens since each token's document began; taps that reach further read zero.

    Cost: O(B D T L levels).
    """
    filters_2L = u_BDT.new_tensor([bank.analysis_low, bank.analysis_high])
    found, rest_BDT = [], u_BDT
    for level in range(levels):
        rest_BDT, detail_BDT = _dilated(rest_BDT, filters_2L, 2**level, age_BT).unbind(2)
        found.append(detail_BDT)
    return [*found, rest_BDT]


def causal_filters(bank: FilterBank, levels: int) -> list[list[float]]:
    """The filter, lag 0 first and W taps long, of each undecimated level; as `causal_levels`."""
    low, filters = [1.0], []
    for level in range(levels):
        filters.append(_product(low, bank.analysis_high, 2**level))
        low = _product(low, bank.analysis_low, 2**level)
    width = reach(bank, levels)
    return [taps + [0.0] * (width - len(taps)) for taps in [*filters, low]]


def _dilated(u_BDT: Tensor, filters_2L: Tensor, step: int, age_BT: Tensor | None) -> Tensor:
    """y[t] = sum_j filter[j] u[t - step * j] for both filters: [B, D, 2, T]."""
    B, D, T = u_BDT.shape
    L = filters_2L.shape[1]
    padded = F.pad(u_BDT, (step * (L - 1), 0))
    if age_BT is None:
        taps = filters_2L.flip(-1)[:, None]
        return F.conv1d(padded.reshape(B * D, 1, -1), taps, dilation=step).view(B, D, 2, T)
    y_BD2T = u_BDT.new_zeros(B, D, 2, T)
    for lag in range(L):
        begin = step * (L - 1 - lag)
        seen_BDT = padded[..., begin : begin + T] * (age_BT >= step * lag)[:, None]
        y_BD2T = y_BD2T + filters_2L[:, lag, None] * seen_BDT[:, :, None]
    return y_BD2T


def _product(first: list[float], second: Sequence[float], step: int) -> list[float]:
    """Convolve taps with others that are `step` apart."""
    result = [0.0] * (len(first) + step * (len(second) - 1))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            result[i + step * j] += a * b
    return result
