"""The `[model.wavelet]` table: the wavelet mixer and its filters (imports no torch).

Filters are looked up in PyWavelets once, when a configuration is made, and are part of it from then
on: an exported model needs no PyWavelets.
"""

import importlib.util
import math
from collections.abc import Sequence

from pydantic import Field, model_validator

from spectral.config_table import Positive, Table


class WaveletConfig(Table):
    """Wavelet analysis; used by layers whose mixer is "wavelet".

    Raises:
        ValueError: The bank is not four filters of one even length.
    """

    family: str = Field("db4", description="Name of the wavelet family in PyWavelets.")
    levels: Positive = Field(3, description="Levels of the analysis.")
    bank: tuple[float, ...] = Field(
        (),
        description="The family's four filters, end to end (analysis low and high pass, synthesis "
        "low and high pass); looked up by name if empty.",
    )

    @model_validator(mode="after")
    def _bank_is_whole(self) -> "WaveletConfig":
        if len(self.bank) % 8:
            raise ValueError(
                f"bank must hold four filters of one even length, got {len(self.bank)} numbers"
            )
        return self

    @property
    def lookback(self) -> int:
        """Tokens before a token that the causal analysis reads."""
        return (len(self.bank) // 4 - 1) * (2**self.levels - 1)

    def with_bank(self) -> "WaveletConfig":
        """The same with the family's filters.

        Raises:
            ValueError: There is no such family, or the filters given are not its own.
        """
        if self.bank:
            check_bank(self.family, self.bank)
            return self
        return self.model_copy(update={"bank": filter_bank(self.family)})


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
            "family must be a discrete wavelet of PyWavelets such as haar, db4, sym5 or bior2.2, "
            f"got {name!r}"
        )
    return tuple(float(tap) for filters in pywt.Wavelet(name).filter_bank for tap in filters)


def check_bank(name: str, bank: Sequence[float]) -> None:
    """Refuse filters that are not the named family's. Without PyWavelets nothing is compared.

    Raises:
        ValueError: They differ, or PyWavelets has no such family.
    """
    if importlib.util.find_spec("pywt") is None:
        return
    expected = filter_bank(name)
    if len(bank) != len(expected) or not all(map(math.isclose, bank, expected)):
        raise ValueError(
            f"bank: expected the {len(expected)} numbers of wavelet {name!r}, got {len(bank)} "
            "others; leave bank out to have them looked up"
        )
