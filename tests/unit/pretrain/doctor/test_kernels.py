"""`resonance doctor --kernels`: the table, and what cannot be in it."""

import pytest

from pretrain.doctor.command import DoctorCommand
from pretrain.doctor.kernels import HEADER, kernel_table
from pretrain.doctor.machine import doctor
from pretrain.errors import RunError


def test_a_table_of_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.op_info.op_names", lambda: ["fft_conv"])
    monkeypatch.setattr("kernels.fft_conv.info.CHUNKS", (64,))
    header, *rows = kernel_table(targets=("sm_90",)).splitlines()
    assert tuple(header.split()) == HEADER
    row = next(line.split() for line in rows if line.startswith("fft_conv.toeplitz 64"))
    assert row[2] == "sm_90"
    assert 16 < int(row[3]) <= 255
    # tensor cores
    assert 0 < int(row[-2]) < int(row[-1])


def test_interpreted_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RunError, match="TRITON_INTERPRET=1: unset it"):
        doctor(DoctorCommand(kernels=True))
