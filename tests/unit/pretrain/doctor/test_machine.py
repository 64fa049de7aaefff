"""`resonance doctor`: what stands in the way of a run is named, with a remedy."""

from pathlib import Path

import pytest

from pretrain.doctor import machine as doctor
from pretrain.doctor.command import DoctorCommand
from pretrain.errors import RunError


def test_this_environment_is_in_order(tmp_path: Path) -> None:
    report = doctor.doctor(DoctorCommand(output=tmp_path / "runs"))
    assert not any(line.startswith("bad ") for line in report.splitlines())
    for subject in ("python", "torch", "deepspeed", "devices", "kernels", "free disk", "output"):
        assert f"ok   {subject}" in report


def test_a_package_that_shadows_ours_is_named(tmp_path: Path) -> None:
    (finding,) = doctor.shadowed(("kernels",), tmp_path)
    assert finding.level == "bad"
    assert (
        f"expected {tmp_path / 'kernels'}: another package of this name shadows it" in finding.text
    )
    assert "pip uninstall kernels" in finding.remedy


def test_too_little_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 2**60)
    with pytest.raises(
        RunError, match=r"bad  free disk .* expected at least .*\n +-> free some space"
    ):
        doctor.doctor(DoctorCommand(output=tmp_path))


def test_an_output_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(
        RunError, match=r"bad  output .* can be written\n +-> choose another output"
    ):
        doctor.doctor(DoctorCommand(output=file))
