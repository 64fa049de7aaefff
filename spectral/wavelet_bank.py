"""Filters of wavelet families, from PyWavelets (imports no torch).

They are looked up once, when a configuration is made, and are part of it from then on: an exported
model needs no PyWavelets.
"""

import importlib.util
import math
from collections.abc import Sequence


def filter_bank(name: str) -> tuple[float, ...]:
    """Analysis low and high pass, synthesis low and high pass of a family, end to end.

    Raises:
        ValueError: PyWavelets has no discrete wavelet of that name.
    """
    # imported here: machines that only launch runs have no numpy
    import pywt

    families = pywt.wavelist(kind="discrete")
    if name not in families:
        raise ValueError(
            f"wavelet must be a discrete family of PyWavelets such as haar, db4, sym5 or bior2.2, "
            f"got {name!r}"
        )
    return tuple(float(tap) for filters in pywt.Wavelet(name).filter_bank for tap in filters)


def check_bank(name: str, bank: Sequence[float]) -> None:
    """Refuse filters that are not the named family's; where there is no PyWavelets, believe them.

    Raises:
        ValueError: They differ, or PyWavelets has no such family.
    """
    if importlib.util.find_spec("pywt") is None:
        return
    expected = filter_bank(name)
    if len(bank) != len(expected) or not all(map(math.isclose, bank, expected)):
        raise ValueError(
            f"wavelet_bank: expected the {len(expected)} numbers of wavelet {name!r}, got "
            f"{len(bank)} others; leave wavelet_bank out to have them looked up"
        )
